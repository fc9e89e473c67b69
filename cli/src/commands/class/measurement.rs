//! What `vouchsafe measure` prints, as a class takes it over.

use serde::{Deserialize, Serialize};
use vouchsafe_proto::vouchsafe::run::v1 as run;

use super::view::{MeasuredFile, ProgramFile};
use crate::error::CliError;

/// The part of a class that is measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::commands) struct Measurement {
    pub(in crate::commands) program: ProgramFile,
    #[serde(default)]
    pub(in crate::commands) files: Vec<MeasuredFile>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(in crate::commands) env_allow: Vec<String>,
}

/// What is printed with `--output json`: more is said there than a class takes.
#[derive(Debug, Deserialize)]
struct Printed {
    spec: Measurement,
}

impl Measurement {
    /// Reads either form.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(in crate::commands) fn parse(text: &str) -> Result<Self, String> {
        if text.trim_start().starts_with('{') {
            let printed: Printed = serde_json::from_str(text).map_err(|error| error.to_string())?;
            return Ok(printed.spec);
        }
        let parsed = toml::from_str(text).map_err(|error| error.to_string());
        parsed.map_err(|why| {
            format!(
                "{why}a measurement says `program`, `files` and `env_allow`; what says more is for --file"
            )
        })
    }

    /// Puts what was measured in the place of a class's program and files; whether launchers may add arguments stays.
    pub(in crate::commands) fn onto(self, spec: &mut run::ClassSpec) -> Result<(), CliError> {
        let extra = spec.program.as_ref().is_some_and(|program| program.extra_args);
        let mut program = self.program.wire()?;
        program.extra_args |= extra;
        spec.program = Some(program);
        spec.files = self
            .files
            .into_iter()
            .map(MeasuredFile::wire)
            .collect::<Result<_, _>>()?;
        if !self.env_allow.is_empty() {
            spec.env_allow = self.env_allow;
        }
        Ok(())
    }
}
