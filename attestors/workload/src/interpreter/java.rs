//! The command line of the Java launcher. Argument files (`@file`) are not followed.

use super::{Program, Unclear};

/// Options whose value is the next argument. The others are flags, or carry theirs attached.
const VALUES: [&[u8]; 14] = [
    b"-cp",
    b"-classpath",
    b"--class-path",
    b"-p",
    b"--module-path",
    b"--upgrade-module-path",
    b"--add-modules",
    b"--enable-native-access",
    b"--limit-modules",
    b"--add-exports",
    b"--add-opens",
    b"--add-reads",
    b"--patch-module",
    b"--illegal-native-access",
];

/// What the arguments after `java` have it run.
pub(super) fn program<'a>(arguments: &[&'a [u8]]) -> Result<Program<'a>, Unclear> {
    let mut rest = arguments.iter().copied();
    let (mut is_jar, mut is_source, mut follows_files) = (false, false, true);
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| Unclear::missing(argument));
        match argument {
            b"-jar" => is_jar = true,
            b"--disable-@files" => follows_files = false,
            b"--source" => {
                value()?;
                is_source = true;
            }
            b"-m" | b"--module" => return Ok(Program::Module(value()?)),
            b"-d" | b"--describe-module" => return Err(Unclear::option(argument)),
            option if VALUES.contains(&option) => drop(value()?),
            option if option.starts_with(b"--source=") => is_source = true,
            option if option.starts_with(b"--module=") => {
                return Ok(Program::Module(
                    option.strip_prefix(b"--module=").unwrap_or_default(),
                ));
            }
            option if option.starts_with(b"-") => {}
            file if follows_files && file.starts_with(b"@") && !file.starts_with(b"@@") => {
                let file = file.escape_ascii();
                return Err(Unclear(format!("the argument file `{file}` is not followed")));
            }
            jar if is_jar => return Ok(Program::Jar(jar)),
            source if is_source || source.ends_with(b".java") => return Ok(Program::Script(source)),
            class => return Ok(Program::Class(class)),
        }
    }
    Err(Unclear("the command line names nothing to run".to_owned()))
}
