//! The command lines of bash and of the POSIX shell.

use super::{Program, Unclear};

/// Long options of bash that take nothing; it knows them with one dash and with two.
const BASH_FLAGS: [&[u8]; 14] = [
    b"debug",
    b"debugger",
    b"dump-po-strings",
    b"dump-strings",
    b"help",
    b"login",
    b"noediting",
    b"noprofile",
    b"norc",
    b"posix",
    b"pretty-print",
    b"restricted",
    b"verbose",
    b"version",
];

/// Long options of bash that take the next argument.
const BASH_VALUES: [&[u8]; 2] = [b"init-file", b"rcfile"];

/// One-letter options that take nothing, of both shells.
const LETTERS: &[u8] = b"abCDeEfhHiIklmnpPqrtTuvVxB";

/// What the arguments after the shell's name have it run; `is_bash` adds what the POSIX shell lacks.
pub(super) fn program<'a>(arguments: &[&'a [u8]], is_bash: bool) -> Result<Program<'a>, Unclear> {
    let mut rest = arguments.iter().copied();
    while let Some(argument) = rest.next() {
        let letters = match argument {
            b"-" | b"--" => return Ok(rest.next().map_or(Program::Inline, Program::Script)),
            [b'-' | b'+', letters @ ..] => letters,
            path => return Ok(Program::Script(path)),
        };
        if is_bash && argument.starts_with(b"-") {
            let name = letters.strip_prefix(b"-").unwrap_or(letters);
            if BASH_FLAGS.contains(&name) {
                continue;
            }
            if BASH_VALUES.contains(&name) {
                rest.next().ok_or_else(|| Unclear::missing(argument))?;
                continue;
            }
        }
        for letter in letters {
            match letter {
                // Code from the command line; positional arguments with `-s`, code from standard input.
                b'c' | b's' => return Ok(Program::Inline),
                // The names of options to set follow as arguments of their own.
                b'o' => drop(rest.next().ok_or_else(|| Unclear::missing(argument))?),
                b'O' if is_bash => drop(rest.next().ok_or_else(|| Unclear::missing(argument))?),
                known if LETTERS.contains(known) => {}
                _ => return Err(Unclear::option(argument)),
            }
        }
    }
    Ok(Program::Inline)
}
