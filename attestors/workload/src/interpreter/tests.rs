//! Tables of command lines, each with what the interpreter runs.

use proptest::prelude::*;

use super::*;

fn argv(line: &str) -> Vec<&[u8]> {
    line.split(' ').map(str::as_bytes).collect()
}

/// Lines of `expected <- command line`; the first word of a command line is the executable.
fn check(table: &[(&str, &str)]) {
    for (expected, line) in table {
        let argv = argv(line);
        let interpreter = Interpreter::of_executable(argv[0]).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let found = match interpreter.program(&argv) {
            Ok(Program::Script(path)) => format!("script {}", text(path)),
            Ok(Program::Module(name)) => format!("module {}", text(name)),
            Ok(Program::Jar(path)) => format!("jar {}", text(path)),
            Ok(Program::Class(name)) => format!("class {}", text(name)),
            Ok(Program::Inline) => "inline".to_owned(),
            Err(_) => "unclear".to_owned(),
        };
        assert_eq!(&found, expected, "{line}");
    }
}

#[test]
fn interpreters_are_known_by_the_name_of_their_executable() {
    for (path, name) in [
        ("/usr/bin/python3.11", Some("python3")),
        ("/usr/bin/python3.11 (deleted)", Some("python3")),
        ("python3", Some("python3")),
        ("/opt/python/bin/python2.7", Some("python2")),
        ("/usr/bin/python", Some("python")),
        ("/usr/bin/python3.13t", Some("python3")),
        ("/usr/bin/node", Some("node")),
        ("/usr/bin/nodejs", Some("node")),
        ("/usr/bin/ruby3.1", Some("ruby")),
        ("/usr/bin/perl", Some("perl")),
        ("/usr/bin/perl5.36.0", Some("perl")),
        ("/usr/bin/dash", Some("sh")),
        ("/bin/bash", Some("bash")),
        ("/usr/lib/jvm/java-17/bin/java", Some("java")),
        ("/usr/bin/python3/agent", None),
        ("/usr/bin/pythonista", None),
        ("/usr/bin/python3-config", None),
        ("/usr/bin/perldoc", None),
        ("/usr/bin/javac", None),
        ("/usr/bin/sleep", None),
        ("", None),
    ] {
        let found = Interpreter::of_executable(path.as_bytes());
        assert_eq!(found.as_ref().map(Interpreter::name), name, "{path}");
    }
    assert_eq!(Interpreter::of_executable(b"/usr/bin/python\xff"), None);
}

#[test]
fn python() {
    check(&[
        ("script a.py", "python3 a.py -m b"),
        ("script a.py", "python3 -u a.py"),
        ("script a.py", "python3 -uBE -s a.py x"),
        ("script a.py", "python3 -X dev -W error a.py"),
        ("script a.py", "python3 -Xdev -Werror a.py"),
        ("script a.py", "python3 -uX dev a.py"),
        ("script a.py", "python3 --check-hash-based-pycs always a.py"),
        ("script a.py", "python3 --check-hash-based-pycs=always a.py"),
        ("script -a.py", "python3 -- -a.py"),
        ("module http.server", "python3 -m http.server 80"),
        ("module http.server", "python3 -Imhttp.server"),
        ("module b", "python3 -um b a.py"),
        ("inline", "python3 -c pass a.py"),
        ("inline", "python3 -Icpass a.py"),
        ("inline", "python3 -uc pass"),
        ("inline", "python3 - a.py"),
        ("inline", "python3 -u"),
        ("inline", "python3"),
        ("inline", "python3 --"),
        ("unclear", "python3 -m"),
        ("unclear", "python3 -X"),
        ("unclear", "python3 -Z a.py"),
        ("unclear", "python3 --new-option a.py"),
    ]);
}

#[test]
fn node() {
    check(&[
        ("script a.js", "node a.js --eval x"),
        ("script a.js", "node --inspect a.js"),
        ("script a.js", "node --inspect=0.0.0.0:1 a.js"),
        ("script a.js", "node --max-old-space-size=100 a.js"),
        ("script a.js", "node -r ./b.js a.js"),
        ("script a.js", "node --require ./b.js --import c.mjs a.js"),
        ("script a.js", "node --require=./b.js a.js"),
        ("script a.js", "node --env-file .env -C dev a.js"),
        ("script -a.js", "node -- -a.js"),
        ("inline", "node -e 1 a.js"),
        ("inline", "node -pe 1"),
        ("inline", "node --eval=1 a.js"),
        ("inline", "node --print 1"),
        ("inline", "node - a.js"),
        ("inline", "node"),
        ("unclear", "node --test a.js"),
        ("unclear", "node --run start"),
        ("unclear", "node inspect a.js"),
        ("unclear", "node --require"),
        ("unclear", "node -Q a.js"),
    ]);
}

#[test]
fn ruby() {
    check(&[
        ("script a.rb", "ruby a.rb -e x"),
        ("script a.rb", "ruby -w -I lib -rjson a.rb"),
        ("script a.rb", "ruby -Ilib -r json a.rb"),
        ("script a.rb", "ruby -W0 -Ku --yjit a.rb"),
        ("script a.rb", "ruby -W:no-deprecated a.rb"),
        ("script a.rb", "ruby --enable frozen-string-literal a.rb"),
        ("script a.rb", "ruby --disable=gems a.rb"),
        ("script a.rb", "ruby -C lib -E UTF-8 a.rb"),
        ("inline", "ruby -e 1 a.rb"),
        ("inline", "ruby -lne 1 a.rb"),
        ("inline", "ruby -0777ne 1 a.rb"),
        ("inline", "ruby -"),
        ("unclear", "ruby -S a.rb"),
        ("unclear", "ruby -I"),
    ]);
}

#[test]
fn perl() {
    check(&[
        ("script a.pl", "perl a.pl -e x"),
        ("script a.pl", "perl -w -T a.pl"),
        ("script a.pl", "perl -I lib -Mstrict a.pl"),
        ("script a.pl", "perl -Ilib -d:NYTProf a.pl"),
        ("script a.pl", "perl -CSDA a.pl"),
        ("script a.pl", "perl -i.bak -p a.pl"),
        ("script a.pl", "perl -0xff a.pl"),
        ("inline", "perl -e 1 a.pl"),
        ("inline", "perl -E 1"),
        ("inline", "perl -lane 1 a.pl"),
        ("inline", "perl -0777ne 1 a.pl"),
        ("inline", "perl -l012e 1 a.pl"),
        ("inline", "perl -Mstrict -we 1"),
        ("inline", "perl"),
        ("unclear", "perl -S a.pl"),
        ("unclear", "perl --foo a.pl"),
    ]);
}

#[test]
fn bash_and_sh() {
    check(&[
        ("script a.sh", "bash a.sh -c x"),
        ("script a.sh", "bash -ex a.sh"),
        ("script a.sh", "bash -eo pipefail a.sh"),
        ("script a.sh", "bash -o pipefail +x -O extglob a.sh"),
        ("script a.sh", "bash --norc --rcfile b a.sh"),
        ("script a.sh", "bash -norc -login a.sh"),
        ("script -a.sh", "bash -- -a.sh"),
        ("script a.sh", "bash - a.sh"),
        ("script a.sh", "bash --debugger a.sh"),
        ("inline", "bash -c true a.sh"),
        ("inline", "bash -lc true"),
        ("inline", "bash -s a.sh"),
        ("inline", "bash -l"),
        ("inline", "bash"),
        ("unclear", "bash --new-option a.sh"),
        ("unclear", "bash -o"),
        ("unclear", "bash --rcfile"),
        ("script a.sh", "sh -e a.sh"),
        ("script a.sh", "dash -o errexit a.sh"),
        ("inline", "sh -c true"),
        ("inline", "sh -ec true"),
        ("unclear", "sh --norc a.sh"),
        ("unclear", "sh -O a a.sh"),
    ]);
}

#[test]
fn java() {
    check(&[
        ("jar a.jar", "java -jar a.jar -cp x"),
        ("jar a.jar", "java -Xmx1g -Da=b -jar a.jar"),
        ("jar a.jar", "java -jar -Xmx1g a.jar"),
        ("jar a.jar", "java -cp x.jar -jar a.jar"),
        ("jar a.jar", "java -javaagent:b.jar -jar a.jar"),
        ("class com.example.Main", "java -cp x.jar com.example.Main a.jar"),
        ("class com.example.Main", "java -classpath x -ea com.example.Main"),
        ("class Main", "java --class-path=x --add-opens a/b=c Main"),
        ("module m/c.Main", "java -p mods -m m/c.Main x"),
        ("module m", "java --module-path mods --module=m"),
        ("script Main.java", "java Main.java x"),
        ("script Main", "java --source 17 Main"),
        ("unclear", "java @options -jar a.jar"),
        ("unclear", "java -jar @options"),
        ("class @options", "java --disable-@files @options"),
        ("unclear", "java -cp"),
        ("unclear", "java -version"),
        ("unclear", "java"),
    ]);
}

#[test]
fn an_empty_command_line_runs_nothing_that_has_a_name() {
    let interpreter = Interpreter::of_executable(b"python3").unwrap();
    assert_eq!(interpreter.program(&[]), Ok(Program::Inline));
    assert_eq!(interpreter.program(&[b"python3", b""]), Ok(Program::Script(b"")));
}

proptest! {
    #[test]
    fn any_command_line_has_an_answer_that_stands_in_it(
        arguments in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..8), 0..8),
        which in 0_usize..7,
    ) {
        let name = ["python3", "node", "ruby", "perl", "bash", "sh", "java"][which];
        let interpreter = Interpreter::of_executable(name.as_bytes()).unwrap();
        let argv: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
        if let Ok(Program::Script(path) | Program::Jar(path) | Program::Class(path)) = interpreter.program(&argv) {
            prop_assert!(argv.iter().skip(1).any(|argument| *argument == path));
        }
    }
}
