//! Which interpreter an executable is, and what its command line has it run. Pure functions: no IO.
//!
//! The command line is the process's own word. What is not understood for certain is [`Unclear`], never a
//! guess.

mod grammar;
mod java;
mod shell;

use grammar::{Grammar, NODE, PERL, PYTHON, RUBY};

/// What an interpreter was told to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program<'a> {
    /// A file of source code.
    Script(&'a [u8]),
    /// `python -m`, `java -m`.
    Module(&'a [u8]),
    /// `java -jar`.
    Jar(&'a [u8]),
    /// A class from Java's class path.
    Class(&'a [u8]),
    /// Code on the command line or on standard input.
    Inline,
}

/// Why the command line does not say what runs; for operators.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unclear(String);

impl Unclear {
    fn option(option: &[u8]) -> Self {
        Self(format!(
            "the option `{}` is not one that can be followed",
            option.escape_ascii()
        ))
    }

    fn missing(option: &[u8]) -> Self {
        Self(format!("the option `{}` has no value", option.escape_ascii()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    Python,
    Node,
    Ruby,
    Perl,
    Bash,
    Sh,
    Java,
}

/// An interpreter whose command line is understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    language: Language,
    name: String,
}

impl Interpreter {
    /// By the name of the executable: `/usr/bin/python3.11` is `python3`. `None` for any other program.
    #[must_use]
    pub fn of_executable(path: &[u8]) -> Option<Self> {
        let base = path.rsplit(|byte| *byte == b'/').next()?;
        let base = std::str::from_utf8(base).ok()?;
        let base = base.strip_suffix(" (deleted)").unwrap_or(base);
        let exact = match base {
            "node" | "nodejs" => Some((Language::Node, "node")),
            "bash" => Some((Language::Bash, "bash")),
            "sh" | "dash" => Some((Language::Sh, "sh")),
            "java" => Some((Language::Java, "java")),
            _ => None,
        };
        if let Some((language, name)) = exact {
            return Some(Self::named(language, name));
        }
        if let Some(version) = base.strip_prefix("python") {
            // Builds for debugging and without the lock have a `d` or `t` at the end.
            let version = version.trim_end_matches(['d', 't']);
            let major = version.split('.').next().unwrap_or_default();
            return is_version(version).then(|| Self::named(Language::Python, &format!("python{major}")));
        }
        let with_version = [(Language::Ruby, "ruby"), (Language::Perl, "perl")];
        with_version
            .into_iter()
            .find(|(_, name)| base.strip_prefix(name).is_some_and(is_version))
            .map(|(language, name)| Self::named(language, name))
    }

    fn named(language: Language, name: &str) -> Self {
        Self {
            language,
            name: name.to_owned(),
        }
    }

    /// Its name for selectors: language and major version where it has one.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it was told to run. `argv` begins with the interpreter's own name.
    ///
    /// # Errors
    /// [`Unclear`] where that cannot be told from the command line.
    pub fn program<'a>(&self, argv: &[&'a [u8]]) -> Result<Program<'a>, Unclear> {
        let arguments = argv.get(1..).unwrap_or_default();
        let by = |grammar: &Grammar| grammar.program(arguments);
        match self.language {
            Language::Python => by(&PYTHON),
            Language::Node => by(&NODE),
            Language::Ruby => by(&RUBY),
            Language::Perl => by(&PERL),
            Language::Bash => shell::program(arguments, true),
            Language::Sh => shell::program(arguments, false),
            Language::Java => java::program(arguments),
        }
    }
}

/// Nothing, or digits and dots.
fn is_version(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_digit() || c == '.')
}

#[cfg(test)]
mod tests;
