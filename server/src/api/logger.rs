//! SPIRE's Logger: the log's level while the server runs.
//!
//! SPIRE's levels `PANIC` and `FATAL` are above every event of ours: they turn the log off.

use tonic::{Request, Response, Status};
use vouchsafe_proto::spire::api::server::logger::v1::logger_server::Logger;
use vouchsafe_proto::spire::api::server::logger::v1::{
    GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest,
};
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::spire::api::types::LogLevel as Level;
use vouchsafe_runtime::telemetry::{LogLevel, TelemetryError};

use super::{Api, call};

/// Our levels and SPIRE's, each of ours with the one by which it is shown.
const LEVELS: [(&str, Level); 6] = [
    ("off", Level::Panic),
    ("error", Level::Error),
    ("warn", Level::Warn),
    ("info", Level::Info),
    ("debug", Level::Debug),
    ("trace", Level::Trace),
];

#[tonic::async_trait]
impl Logger for Api {
    async fn get_logger(
        &self,
        _request: Request<GetLoggerRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        Ok(state(&self.log))
    }

    async fn set_log_level(
        &self,
        request: Request<SetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        let call = call(&request)?;
        let asked = request.get_ref().new_level();
        let wanted = match asked {
            Level::Fatal => Level::Panic,
            other => other,
        };
        let known = LEVELS.iter().find(|(_, spires)| *spires == wanted);
        let Some((level, _)) = known else {
            return Err(Status::invalid_argument(
                "`new_level` is required: one of PANIC, FATAL, ERROR, WARN, INFO, DEBUG, TRACE",
            ));
        };
        call.fact("level", *level);
        self.log.set(level).map_err(failed)?;
        Ok(state(&self.log))
    }

    async fn reset_log_level(
        &self,
        _request: Request<ResetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        self.log.reset().map_err(failed)?;
        Ok(state(&self.log))
    }
}

fn state(log: &LogLevel) -> Response<types::Logger> {
    Response::new(types::Logger {
        current_level: overall(&log.current()).into(),
        launch_level: overall(log.launch()).into(),
    })
}

/// The level of all parts that have none of their own; without one only errors are logged.
fn overall(levels: &str) -> Level {
    let bare = levels.split(',').map(str::trim).rfind(|word| !word.contains('='));
    let bare = bare.unwrap_or("error");
    LEVELS
        .iter()
        .find(|(ours, _)| bare.eq_ignore_ascii_case(ours))
        .map_or(Level::Unspecified, |(_, spires)| *spires)
}

fn failed(error: TelemetryError) -> Status {
    Status::failed_precondition(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overall_level_is_that_of_the_parts_without_their_own() {
        for (text, level) in [
            ("info", Level::Info),
            ("WARN,vouchsafe_server=debug", Level::Warn),
            ("vouchsafe_server=debug", Level::Error),
            ("vouchsafe_server=debug, trace", Level::Trace),
            ("off", Level::Panic),
        ] {
            assert_eq!(overall(text), level, "{text}");
        }
    }
}
