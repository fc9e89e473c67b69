//! `pyvenv.cfg`, the file that makes a folder a virtual environment, as CPython reads it (Modules/getpath.py, Lib/site.py).
//! Pure functions: no IO. The file is its owner's word, and what it says of versions binds nobody.

use std::path::{Path, PathBuf};

/// Largest `pyvenv.cfg` that is read, in bytes; those of real tools have a few hundred.
pub const MAX_PYVENV_BYTES: usize = 64 * 1024;

/// Names of the lock files of Python's tools, which stand beside a virtual environment.
pub const PYTHON_LOCKS: [&str; 6] = [
    "Pipfile.lock",
    "pdm.lock",
    "poetry.lock",
    "pylock.toml",
    "requirements.txt",
    "uv.lock",
];

/// Why a file makes no virtual environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PyvenvError {
    /// Longer than any real one.
    #[error("it has more than {MAX_PYVENV_BYTES} bytes")]
    TooLong,
    /// Python reads it as UTF-8.
    #[error("it is not UTF-8")]
    NotText,
    /// Without it Python takes the folder for none.
    #[error("it has no line `home = …`")]
    NoHome,
    /// Relative, or with a control character.
    #[error("its `home` is `{}`, which is not an absolute path", _0.escape_debug())]
    Home(String),
}

/// What a `pyvenv.cfg` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pyvenv {
    home: PathBuf,
    version: Option<(u16, u16)>,
    system_site: bool,
}

impl Pyvenv {
    /// Reads the file's bytes.
    ///
    /// # Errors
    /// [`PyvenvError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, PyvenvError> {
        if bytes.len() > MAX_PYVENV_BYTES {
            return Err(PyvenvError::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| PyvenvError::NotText)?;
        let (mut home, mut version, mut system_site) = (None, None, false);
        // Python ends lines at `\r` and `\r\n` too.
        let lines = text.split(['\n', '\r']);
        for (key, value) in lines.filter_map(|line| line.split_once('=')) {
            let value = value.trim();
            match key.trim().to_lowercase().as_str() {
                // Of several the first counts here, and the last there, as in Python.
                "home" => home = home.or(Some(value)),
                "include-system-site-packages" => system_site = value.eq_ignore_ascii_case("true"),
                "version" | "version_info" => version = version.or_else(|| two_numbers(value)),
                _ => {}
            }
        }
        let home = home.ok_or(PyvenvError::NoHome)?;
        if !home.starts_with('/') || home.chars().any(char::is_control) {
            return Err(PyvenvError::Home(home.chars().take(200).collect()));
        }
        Ok(Self {
            home: PathBuf::from(home),
            version,
            system_site,
        })
    }

    /// The folder of the interpreter that the environment was made with; absolute.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Major and minor version, where the tool that made the environment wrote them down.
    #[must_use]
    pub fn version(&self) -> Option<(u16, u16)> {
        self.version
    }

    /// Whether the packages of that interpreter count as well.
    #[must_use]
    pub fn system_site(&self) -> bool {
        self.system_site
    }
}

/// The first two numbers of `3.11.7`.
fn two_numbers(text: &str) -> Option<(u16, u16)> {
    let mut numbers = text.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tools_write_is_understood() {
        let of_venv = "home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11.2\n\
                       executable = /usr/bin/python3.11\ncommand = /usr/bin/python3 -m venv /opt/v\n";
        let of_uv = "home=/opt/py/bin\r\nimplementation = CPython\r\nuv = 0.5\r\nversion_info = 3.12.1\r\nprompt = a=b\r\n";
        let found = Pyvenv::parse(of_venv.as_bytes()).unwrap();
        assert_eq!(
            (found.home(), found.version()),
            (Path::new("/usr/bin"), Some((3, 11)))
        );
        assert!(!found.system_site());
        let found = Pyvenv::parse(of_uv.as_bytes()).unwrap();
        assert_eq!(
            (found.home(), found.version()),
            (Path::new("/opt/py/bin"), Some((3, 12)))
        );
    }

    #[test]
    fn of_two_homes_python_takes_the_first_and_of_two_switches_the_last() {
        let text = "HOME = /a\nhome = /b\nInclude-System-Site-Packages = false\ninclude-system-site-packages = TRUE\n";
        let found = Pyvenv::parse(text.as_bytes()).unwrap();
        assert_eq!((found.home(), found.system_site()), (Path::new("/a"), true));
    }

    #[test]
    fn what_makes_no_environment_is_refused_with_its_reason() {
        for (bytes, refused) in [
            (&b""[..], PyvenvError::NoHome),
            (b"home\nhomes = /a\n", PyvenvError::NoHome),
            (b"home = bin\n", PyvenvError::Home("bin".to_owned())),
            (b"home =\n", PyvenvError::Home(String::new())),
            (b"home = /a\x1b[2J\n", PyvenvError::Home("/a\u{1b}[2J".to_owned())),
            (b"home = /\xff\n", PyvenvError::NotText),
            (&vec![b' '; MAX_PYVENV_BYTES + 1], PyvenvError::TooLong),
        ] {
            assert_eq!(Pyvenv::parse(bytes), Err(refused));
        }
    }
}
