//! Exit codes of our programs, after `sysexits.h`: a script can tell "fix the config" from "try again".

/// How a program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// All went well.
    Ok = 0,
    /// The answer is no: nothing found, not healthy, refused by a check.
    Failure = 1,
    /// The command line was wrong.
    Usage = 64,
    /// A service that is needed does not answer.
    Unavailable = 69,
    /// A fault of the program itself.
    Software = 70,
    /// Reading or writing failed.
    Io = 74,
    /// The same may work later.
    TempFail = 75,
    /// The caller may not do this.
    NoPermission = 77,
    /// The configuration was refused.
    Config = 78,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}
