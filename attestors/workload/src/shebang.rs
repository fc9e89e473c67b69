//! The first line of a script, as the kernel reads it (fs/binfmt_script.c), and what `env` makes of it. Pure functions:
//! no IO. What would be cut off or read in several ways is refused, never guessed.

/// How much of a file the kernel looks at, in bytes (`BINPRM_BUF_SIZE`).
pub const HEAD_BYTES: usize = 256;

/// Why a first line does not say for certain what runs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShebangError {
    /// The kernel would cut it off.
    #[error("its first line does not end within {HEAD_BYTES} bytes")]
    TooLong,
    /// Nothing after `#!`.
    #[error("its first line names no interpreter")]
    Nothing,
    /// A carriage return of Windows, mostly.
    #[error("its first line has the control character {}", _0.escape_ascii())]
    Control(u8),
    /// Options, variables or quotes of `env`.
    #[error("its first line has `env` do what cannot be followed, `{0}`: name the interpreter by its path")]
    Env(String),
}

/// A script's first line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shebang<'a> {
    interpreter: &'a [u8],
    argument: Option<&'a [u8]>,
}

impl<'a> Shebang<'a> {
    /// Reads the first [`HEAD_BYTES`] bytes of a file, or all of a shorter one; more are not looked at. `None` where they do
    /// not begin with `#!`.
    ///
    /// # Errors
    /// [`ShebangError`].
    pub fn parse(head: &'a [u8]) -> Result<Option<Self>, ShebangError> {
        let is_whole = head.len() < HEAD_BYTES;
        let head = head.get(..HEAD_BYTES).unwrap_or(head);
        let Some(rest) = head.strip_prefix(b"#!") else {
            return Ok(None);
        };
        let line = match rest.iter().position(|byte| *byte == b'\n') {
            Some(end) => rest.get(..end).unwrap_or_default(),
            None if is_whole => rest,
            None => return Err(ShebangError::TooLong),
        };
        let line = trimmed(line);
        if let Some(odd) = line
            .iter()
            .find(|byte| byte.is_ascii_control() && **byte != b'\t')
        {
            return Err(ShebangError::Control(*odd));
        }
        let end = line.iter().position(|byte| is_blank(*byte)).unwrap_or(line.len());
        let (interpreter, rest) = line.split_at(end);
        if interpreter.is_empty() {
            return Err(ShebangError::Nothing);
        }
        let argument = Some(trimmed(rest)).filter(|rest| !rest.is_empty());
        Ok(Some(Self {
            interpreter,
            argument,
        }))
    }

    /// The command that it stands for, without the script: a path, or a name that is looked for as `env` does, and
    /// arguments. Never empty.
    ///
    /// # Errors
    /// [`ShebangError::Env`].
    pub fn words(&self) -> Result<Vec<&'a [u8]>, ShebangError> {
        let base = self.interpreter.rsplit(|byte| *byte == b'/').next();
        if base != Some(b"env") {
            return Ok(std::iter::once(self.interpreter).chain(self.argument).collect());
        }
        let unclear = || ShebangError::Env(self.argument.unwrap_or_default().escape_ascii().to_string());
        let argument = self.argument.ok_or_else(unclear)?;
        let words: Vec<&[u8]> = match argument.strip_prefix(b"-S") {
            // One argument to the kernel: without `-S`, a name with a blank in it.
            None => vec![argument],
            Some(text) => text
                .split(|byte| is_blank(*byte))
                .filter(|word| !word.is_empty())
                .collect(),
        };
        let first = words.first().copied().unwrap_or_default();
        let is_program = !first.is_empty() && !first.starts_with(b"-") && !first.contains(&b'=');
        let is_plain = words.iter().all(|word| {
            !word
                .iter()
                .any(|byte| b"'\"\\$#`".contains(byte) || is_blank(*byte))
        });
        (is_program && is_plain).then_some(words).ok_or_else(unclear)
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn trimmed(text: &[u8]) -> &[u8] {
    let start = text
        .iter()
        .position(|byte| !is_blank(*byte))
        .unwrap_or(text.len());
    let end = text
        .iter()
        .rposition(|byte| !is_blank(*byte))
        .map_or(start, |last| last + 1);
    text.get(start..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Vec<String>, ShebangError> {
        let shebang = Shebang::parse(line.as_bytes())?.expect("a first line");
        let words = shebang.words()?;
        Ok(words
            .iter()
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect())
    }

    #[test]
    fn the_kernel_passes_all_after_the_interpreter_as_one_argument() {
        assert_eq!(words("#!/bin/sh\nexit").unwrap(), ["/bin/sh"]);
        assert_eq!(
            words("#! \t/usr/bin/python3  -u -X dev \t\n").unwrap(),
            ["/usr/bin/python3", "-u -X dev"]
        );
        assert_eq!(words("#!python3").unwrap(), ["python3"]);
    }

    #[test]
    fn env_looks_for_a_name_and_splits_where_it_is_told_to() {
        assert_eq!(words("#!/usr/bin/env python3\n").unwrap(), ["python3"]);
        assert_eq!(
            words("#!/usr/bin/env -S node --no-warnings\n").unwrap(),
            ["node", "--no-warnings"]
        );
        for bad in [
            "#!/usr/bin/env\n",
            "#!/usr/bin/env python3 -u\n",
            "#!/usr/bin/env -i python3\n",
            "#!/usr/bin/env -S A=b python3\n",
            "#!/usr/bin/env -S python3 '-c' \"x\"\n",
            "#!/usr/bin/env -S\n",
            "#!/usr/bin/env A=b\n",
        ] {
            assert!(matches!(words(bad), Err(ShebangError::Env(_))), "{bad}");
        }
    }

    #[test]
    fn what_the_kernel_would_cut_off_or_not_find_is_refused() {
        let long = format!("#!/{}\n", "a".repeat(HEAD_BYTES));
        assert_eq!(Shebang::parse(long.as_bytes()), Err(ShebangError::TooLong));
        assert_eq!(Shebang::parse(b"#! \t\n/bin/sh"), Err(ShebangError::Nothing));
        assert_eq!(
            Shebang::parse(b"#!/bin/sh\r\n"),
            Err(ShebangError::Control(b'\r'))
        );
        assert_eq!(Shebang::parse(b"#!/bin/\0sh\n"), Err(ShebangError::Control(0)));
        for other in [&b""[..], b"#", b" #!/bin/sh", b"\x7fELF"] {
            assert_eq!(Shebang::parse(other), Ok(None));
        }
    }
}
