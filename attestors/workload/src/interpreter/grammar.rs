//! The command lines of Python, Node, Ruby and Perl: clusters of one-letter options and long options, then
//! the script. One engine; the four tables say what each letter takes.

use super::{Program, Unclear};

/// What a one-letter option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Letter {
    /// Nothing: the next letter of the cluster follows.
    Flag,
    /// Octal digits (or `x` and hexadecimal ones), then the next letter follows.
    Digits,
    /// The rest of the cluster, which may be empty.
    Rest,
    /// The rest of the cluster, or the next argument.
    Value,
    /// A module to run: the rest of the cluster, or the next argument.
    Module,
    /// Code, or standard input: no file is run.
    Inline,
}

/// What one interpreter's options take.
#[derive(Debug)]
pub(super) struct Grammar {
    flags: &'static [u8],
    digits: &'static [u8],
    rest: &'static [u8],
    values: &'static [u8],
    modules: &'static [u8],
    inline: &'static [u8],
    /// Long options whose value may be the next argument.
    long_values: &'static [&'static str],
    /// Long options that take code, or read it from elsewhere.
    long_inline: &'static [&'static str],
    /// Long options after which the command line names no script in the usual way.
    long_unclear: &'static [&'static str],
    /// Whether other long options are flags; where not, only those in `long_flags` are known.
    other_long_are_flags: bool,
    long_flags: &'static [&'static str],
    /// First words that are commands of the interpreter, not scripts.
    commands: &'static [&'static str],
}

/// CPython 3.
pub(super) const PYTHON: Grammar = Grammar {
    flags: b"bBdEhiIJOPqRsStuvVx?",
    digits: b"",
    rest: b"",
    values: b"WX",
    modules: b"m",
    inline: b"c",
    long_values: &["--check-hash-based-pycs"],
    long_inline: &[],
    long_unclear: &[],
    other_long_are_flags: false,
    long_flags: &[
        "--help",
        "--help-all",
        "--help-env",
        "--help-xoptions",
        "--version",
    ],
    commands: &[],
};

/// Node 18 and later. It has some hundred flags and hands what it does not know to V8, whose options carry
/// their values with `=`; so an unknown long option is a flag.
pub(super) const NODE: Grammar = Grammar {
    flags: b"chiv",
    digits: b"",
    rest: b"",
    values: b"rC",
    modules: b"",
    inline: b"ep",
    long_values: &[
        "--allow-fs-read",
        "--allow-fs-write",
        "--build-snapshot-config",
        "--conditions",
        "--cpu-prof-dir",
        "--cpu-prof-interval",
        "--cpu-prof-name",
        "--debug-port",
        "--diagnostic-dir",
        "--disable-proto",
        "--disable-warning",
        "--dns-result-order",
        "--env-file",
        "--env-file-if-exists",
        "--es-module-specifier-resolution",
        "--experimental-default-type",
        "--experimental-loader",
        "--experimental-policy",
        "--experimental-sea-config",
        "--heap-prof-dir",
        "--heap-prof-interval",
        "--heap-prof-name",
        "--heapsnapshot-near-heap-limit",
        "--heapsnapshot-signal",
        "--icu-data-dir",
        "--import",
        "--input-type",
        "--inspect-port",
        "--inspect-publish-uid",
        "--loader",
        "--localstorage-file",
        "--max-http-header-size",
        "--network-family-autoselection-attempt-timeout",
        "--openssl-config",
        "--policy-integrity",
        "--redirect-warnings",
        "--report-dir",
        "--report-directory",
        "--report-filename",
        "--report-signal",
        "--require",
        "--secure-heap",
        "--secure-heap-min",
        "--snapshot-blob",
        "--stack-trace-limit",
        "--test-concurrency",
        "--test-name-pattern",
        "--test-reporter",
        "--test-reporter-destination",
        "--test-shard",
        "--test-skip-pattern",
        "--test-timeout",
        "--title",
        "--tls-cipher-list",
        "--tls-keylog",
        "--tls-max-v1.2",
        "--trace-event-categories",
        "--trace-event-file-pattern",
        "--trace-require-module",
        "--unhandled-rejections",
        "--use-largepages",
        "--v8-pool-size",
        "--watch-path",
    ],
    long_inline: &["--eval", "--print"],
    long_unclear: &["--run", "--test", "--build-snapshot"],
    other_long_are_flags: true,
    long_flags: &[],
    commands: &["inspect", "debug"],
};

/// Ruby 2.7 and later.
pub(super) const RUBY: Grammar = Grammar {
    flags: b"achlnpsUvwy",
    digits: b"0T",
    rest: b"dFiKWx",
    values: b"CEIrX",
    modules: b"",
    inline: b"e",
    long_values: &[
        "--backtrace-limit",
        "--crash-report",
        "--disable",
        "--dump",
        "--enable",
        "--encoding",
        "--external-encoding",
        "--internal-encoding",
        "--parser",
    ],
    long_inline: &[],
    long_unclear: &[],
    other_long_are_flags: true,
    long_flags: &[],
    commands: &[],
};

/// Perl 5.
pub(super) const PERL: Grammar = Grammar {
    flags: b"acfghnpstTuUvwWX",
    digits: b"0l",
    rest: b"CdDFimMVx",
    values: b"I",
    modules: b"",
    inline: b"eE",
    long_values: &[],
    long_inline: &[],
    long_unclear: &[],
    other_long_are_flags: false,
    long_flags: &["--help", "--version"],
    commands: &[],
};

impl Grammar {
    /// What the arguments after the interpreter's name have it run.
    pub(super) fn program<'a>(&self, arguments: &[&'a [u8]]) -> Result<Program<'a>, Unclear> {
        let mut rest = arguments.iter().copied();
        while let Some(argument) = rest.next() {
            match argument {
                b"-" => return Ok(Program::Inline),
                b"--" => return Ok(rest.next().map_or(Program::Inline, script)),
                long if long.starts_with(b"--") => {
                    if let Some(program) = self.long(long, &mut rest)? {
                        return Ok(program);
                    }
                }
                [b'-', cluster @ ..] => {
                    if let Some(program) = self.cluster(argument, cluster, &mut rest)? {
                        return Ok(program);
                    }
                }
                command if self.commands.iter().any(|known| known.as_bytes() == command) => {
                    return Err(Unclear::option(command));
                }
                path => return Ok(script(path)),
            }
        }
        // With nothing to run an interpreter reads standard input.
        Ok(Program::Inline)
    }

    fn long<'a>(
        &self,
        option: &'a [u8],
        rest: &mut impl Iterator<Item = &'a [u8]>,
    ) -> Result<Option<Program<'a>>, Unclear> {
        let equals = option.iter().position(|byte| *byte == b'=');
        let name = equals.and_then(|at| option.get(..at)).unwrap_or(option);
        let among = |names: &[&str]| names.iter().any(|known| known.as_bytes() == name);
        if among(self.long_inline) {
            return Ok(Some(Program::Inline));
        }
        if among(self.long_unclear) {
            return Err(Unclear::option(option));
        }
        if among(self.long_values) {
            if equals.is_none() && rest.next().is_none() {
                return Err(Unclear::missing(option));
            }
            return Ok(None);
        }
        if self.other_long_are_flags || among(self.long_flags) {
            return Ok(None);
        }
        Err(Unclear::option(option))
    }

    fn cluster<'a>(
        &self,
        option: &'a [u8],
        mut cluster: &'a [u8],
        rest: &mut impl Iterator<Item = &'a [u8]>,
    ) -> Result<Option<Program<'a>>, Unclear> {
        while let Some((letter, tail)) = cluster.split_first() {
            cluster = tail;
            match self.letter(*letter).ok_or_else(|| Unclear::option(option))? {
                Letter::Flag => {}
                Letter::Digits => cluster = after_digits(tail),
                Letter::Rest => return Ok(None),
                Letter::Inline => return Ok(Some(Program::Inline)),
                Letter::Value => {
                    if tail.is_empty() && rest.next().is_none() {
                        return Err(Unclear::missing(option));
                    }
                    return Ok(None);
                }
                Letter::Module => {
                    let attached = (!tail.is_empty()).then_some(tail);
                    let module = attached.or_else(|| rest.next());
                    return module
                        .map(|name| Some(Program::Module(name)))
                        .ok_or_else(|| Unclear::missing(option));
                }
            }
        }
        Ok(None)
    }

    fn letter(&self, letter: u8) -> Option<Letter> {
        let kinds = [
            (self.flags, Letter::Flag),
            (self.digits, Letter::Digits),
            (self.rest, Letter::Rest),
            (self.values, Letter::Value),
            (self.modules, Letter::Module),
            (self.inline, Letter::Inline),
        ];
        let found = kinds.into_iter().find(|(letters, _)| letters.contains(&letter));
        found.map(|(_, kind)| kind)
    }
}

fn script(path: &[u8]) -> Program<'_> {
    if path == b"-" {
        Program::Inline
    } else {
        Program::Script(path)
    }
}

fn after_digits(text: &[u8]) -> &[u8] {
    let (digits, is_digit): (&[u8], fn(&u8) -> bool) = match text {
        [b'x' | b'X', hex @ ..] if hex.first().is_some_and(u8::is_ascii_hexdigit) => {
            (hex, u8::is_ascii_hexdigit)
        }
        octal => (octal, |byte| matches!(byte, b'0'..=b'7')),
    };
    let end = digits
        .iter()
        .position(|byte| !is_digit(byte))
        .unwrap_or(digits.len());
    digits.get(end..).unwrap_or_default()
}
