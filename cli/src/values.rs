//! Values on the command line, parsed once.

use std::path::PathBuf;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A span such as `1h`, `90s`; a bare number means seconds, as in SPIRE.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|e| format!("{e}; write it as `90s`, `15m` or `1h`"))
}

/// A moment: RFC 3339, or seconds since 1970.
pub(crate) fn moment(text: &str) -> Result<OffsetDateTime, String> {
    if let Ok(seconds) = text.parse::<i64>() {
        return OffsetDateTime::from_unix_timestamp(seconds).map_err(|e| e.to_string());
    }
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "write it as `2030-01-31T12:00:00Z`, or as seconds since 1970".to_owned())
}

/// A socket's path, bare or as the URI of `SPIFFE_ENDPOINT_SOCKET` (SPIFFE Workload Endpoint §4).
pub(crate) fn socket_path(text: &str) -> Result<PathBuf, String> {
    if text.starts_with("tcp:") {
        return Err(
            "Vouchsafe serves the Workload API on unix sockets only: write `unix:///path`".to_owned(),
        );
    }
    let Some(rest) = text.strip_prefix("unix:") else {
        if text.contains("://") {
            return Err(format!(
                "`{text}` has a scheme other than `unix`: write `unix:///path`"
            ));
        }
        return if text.is_empty() {
            Err("the path is empty".to_owned())
        } else {
            Ok(PathBuf::from(text))
        };
    };
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if path.is_empty() {
        return Err("the path is empty".to_owned());
    }
    if !path.starts_with('/') {
        return Err(format!("`{path}` is not an absolute path: write `unix:///path`"));
    }
    if path.contains(['?', '#']) {
        return Err(format!(
            "`{path}` has a query or a fragment: write `unix:///path`"
        ));
    }
    Ok(PathBuf::from(path))
}

/// RFC 3339 text of a time in seconds since 1970; `never` for 0.
pub(crate) fn show_time(seconds: i64) -> String {
    if seconds == 0 {
        return "never".to_owned();
    }
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|t| t.format(&Rfc3339).ok())
        .unwrap_or_else(|| seconds.to_string())
}

/// How long ago something was, in its two largest units.
pub(crate) fn show_age(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        ..60 => format!("{}s", seconds.max(0)),
        60..3600 => format!("{minutes}m {}s", seconds % 60),
        3600..86_400 => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_numbers_are_seconds_and_units_are_understood() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("15m"), Ok(Duration::from_secs(900)));
        assert!(duration("soon").unwrap_err().contains("`90s`"));
        assert!(duration("-1").is_err());
    }

    #[test]
    fn workload_endpoint_4_scheme_must_be_known_and_a_unix_uri_must_be_an_absolute_path_alone() {
        for text in ["/run/a.sock", "unix:/run/a.sock", "unix:///run/a.sock"] {
            assert_eq!(socket_path(text), Ok(PathBuf::from("/run/a.sock")), "{text}");
        }
        for text in [
            "",
            "unix:",
            "unix://",
            "unix:run/a.sock",
            "unix://host/a.sock",
            "unix:///run/a.sock?x=y",
            "unix:///run/a.sock#x",
            "tcp://127.0.0.1:1",
            "http://127.0.0.1:1",
            "UNIX:///run/a.sock",
        ] {
            assert!(socket_path(text).is_err(), "{text}");
        }
    }

    #[test]
    fn moments_are_rfc3339_or_seconds() {
        assert_eq!(moment("86400"), moment("1970-01-02T00:00:00Z"));
        assert!(moment("tomorrow").is_err());
        assert_eq!(show_time(0), "never");
        assert_eq!(show_time(86400), "1970-01-02T00:00:00Z");
    }

    #[test]
    fn ages_have_two_units_and_are_never_negative() {
        let shown = [-5, 0, 59, 60, 3599, 3600, 86_399, 86_400, 900_000].map(show_age);
        assert_eq!(
            shown,
            [
                "0s", "0s", "59s", "1m 0s", "59m 59s", "1h 0m", "23h 59m", "1d 0h", "10d 10h"
            ]
        );
    }
}
