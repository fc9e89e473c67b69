//! What holds for any text that is read as a configuration: it is refused with words, or what was read can be written and
//! read again.

use serde::{Deserialize, Serialize};
use vouchsafe_runtime::metrics::MetricsConfig;
use vouchsafe_runtime::telemetry::LogConfig;
use vouchsafe_runtime::tls::{AcceptLimits, ServerAddress};
use vouchsafe_runtime::{ByteSize, Span, config};

/// Every kind of value that the daemons' files have.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sample {
    span: Option<Span>,
    size: Option<ByteSize>,
    log: LogConfig,
    metrics: MetricsConfig,
    limits: Option<AcceptLimits>,
    names: Vec<String>,
}

/// Reads any bytes as a file, and as each of its values.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match config::parse::<Sample>(text, "a.toml") {
        Ok(sample) => {
            let written = toml::to_string(&sample).expect("what was read can be written");
            let again: Sample = config::parse(&written, "a.toml").expect("what was written can be read");
            assert_eq!(again, sample, "{written}");
            // Neither may panic, whatever it says.
            let _level = sample.log.check().map_err(|error| error.to_string());
            let _address = sample.metrics.check().map_err(|error| error.to_string());
        }
        Err(refused) => assert!(refused.to_string().contains("a.toml"), "{refused}"),
    }
    if let Ok(span) = text.parse::<Span>() {
        assert_eq!(span.to_string().parse(), Ok(span));
    }
    if let Ok(size) = text.parse::<ByteSize>() {
        assert_eq!(size.to_string().parse(), Ok(size));
    }
    if let Ok(address) = text.parse::<ServerAddress>() {
        assert!(address.to_string().parse::<ServerAddress>().is_ok());
    }
}
