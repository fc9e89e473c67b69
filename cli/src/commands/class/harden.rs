//! Flags of what the kernel withholds from runs.

use clap::Args;
use vouchsafe_proto::vouchsafe::run::v1 as run;

use crate::error::CliError;

/// What stands for an empty list, or for no limit.
const NONE: &str = "none";
const ANY: &str = "any";

/// What the kernel withholds. A flag that is given replaces what the class had of it.
#[derive(Debug, Args)]
pub(super) struct HardenArgs {
    /// Whether programs that a run starts are kept from gaining privileges
    #[arg(long = "harden", value_name = "BOOL")]
    no_new_privs: Option<bool>,
    /// A file or folder that runs may read, and no others (repeat); `any` lifts the limit
    #[arg(long = "harden-read", value_name = "PATH")]
    read: Vec<String>,
    /// A file or folder that runs may write, and no others (repeat); `any` lifts the limit
    #[arg(long = "harden-write", value_name = "PATH")]
    write: Vec<String>,
    /// A TCP port that runs may connect to, and no others (repeat); `none`, or `any` to lift the limit
    #[arg(long = "harden-connect", value_name = "PORT")]
    connect: Vec<String>,
    /// A TCP port that runs may listen on, and no others (repeat); `none`, or `any` to lift the limit
    #[arg(long = "harden-bind", value_name = "PORT")]
    bind: Vec<String>,
}

impl HardenArgs {
    /// Writes what was given over what the class has.
    pub(super) fn onto(self, harden: &mut run::Harden) -> Result<(), CliError> {
        harden.no_new_privs = self.no_new_privs.unwrap_or(harden.no_new_privs);
        for (flag, list, given) in [
            ("--harden-read", &mut harden.read_paths, self.read),
            ("--harden-write", &mut harden.write_paths, self.write),
        ] {
            match alone(flag, &given, ANY)? {
                _ if given.is_empty() => {}
                true => list.clear(),
                false => *list = given,
            }
        }
        for (flag, hold, list, given) in [
            (
                "--harden-connect",
                &mut harden.hold_connect,
                &mut harden.connect_ports,
                self.connect,
            ),
            (
                "--harden-bind",
                &mut harden.hold_bind,
                &mut harden.bind_ports,
                self.bind,
            ),
        ] {
            if given.is_empty() {
                continue;
            }
            *hold = !alone(flag, &given, ANY)?;
            *list = match *hold && !alone(flag, &given, NONE)? {
                true => given
                    .iter()
                    .map(|text| port(flag, text))
                    .collect::<Result<_, _>>()?,
                false => Vec::new(),
            };
        }
        Ok(())
    }
}

/// Whether a word is given, which may stand only alone.
fn alone(flag: &str, given: &[String], word: &str) -> Result<bool, CliError> {
    match given.iter().any(|text| text == word) {
        true if given.len() > 1 => Err(CliError::Usage(format!(
            "{flag} {word} stands alone, without others"
        ))),
        found => Ok(found),
    }
}

fn port(flag: &str, text: &str) -> Result<u32, CliError> {
    let port = text.parse::<u16>().ok().filter(|port| *port > 0);
    port.map(u32::from)
        .ok_or_else(|| CliError::Usage(format!("{flag}: `{text}` is no port: 1 to 65535")))
}
