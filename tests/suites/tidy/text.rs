//! Rules about every text file that people write. The words that are forbidden are put together here from
//! halves, so that this file does not break its own rules.

use crate::tree::{Finding, TextFile};

/// Folders of the machines that build this; a path below one means nothing to a reader.
const MACHINE_FOLDERS: [&str; 2] = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];

/// Hosts of package registries: which one serves a package is the machine's setting, not ours.
const REGISTRIES: [&str; 9] = [
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("proxy.golang", ".org"),
    concat!("sum.golang", ".org"),
    concat!("repo.maven.apache", ".org"),
    concat!("repo1.maven", ".org"),
    concat!("registry.npmjs", ".org"),
    concat!("deb.debian", ".org"),
];

/// Words that put work off.
const UNSTABLE: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("HA", "CK"),
    concat!("WI", "P"),
];

/// Calls that wait for time to pass instead of for a thing to happen, by the ending of the file's name.
const SLEEPS: [(&str, &str); 4] = [
    (".py", concat!("time.sl", "eep(")),
    (".go", concat!("time.Sl", "eep(")),
    (".java", concat!(".sl", "eep(")),
    (".sh", concat!("sl", "eep ")),
];

/// No path of the machine that something was made on.
pub(crate) fn machine_paths(file: &TextFile) -> Vec<Finding> {
    let starts_path =
        |before: Option<char>| before.is_none_or(|c| !c.is_alphanumeric() && !"._-})/$".contains(c));
    every(
        file,
        &MACHINE_FOLDERS,
        starts_path,
        |_| true,
        "names a folder of one machine",
    )
}

/// No host of a package registry.
pub(crate) fn registries(file: &TextFile) -> Vec<Finding> {
    every(file, &REGISTRIES, |_| true, |_| true, "names a package registry")
}

/// Nothing that is put off: what comes later is an issue.
pub(crate) fn unstable_words(file: &TextFile) -> Vec<Finding> {
    let apart = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
    every(
        file,
        &UNSTABLE,
        apart,
        apart,
        "puts work off: do it, or file an issue",
    )
}

/// Scripts and test clients wait for conditions too.
pub(crate) fn sleeps(file: &TextFile) -> Vec<Finding> {
    let of_kind =
        |(ending, word): &(&'static str, &'static str)| file.path.ends_with(ending).then_some(*word);
    let words: Vec<&str> = SLEEPS.iter().filter_map(of_kind).collect();
    every(
        file,
        &words,
        |_| true,
        |_| true,
        "wait for a condition with a deadline",
    )
}

/// Where one of the words stands with what is wanted before and after it.
fn every(
    file: &TextFile,
    words: &[&str],
    before: impl Fn(Option<char>) -> bool,
    after: impl Fn(Option<char>) -> bool,
    text: &str,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in file.lines() {
        for word in words {
            let mut hits = line.match_indices(word);
            let found = hits.any(|(start, _)| {
                let (left, right) = line.split_at(start);
                before(left.chars().next_back()) && after(right.chars().nth(word.chars().count()))
            });
            if found {
                findings.push(Finding::at(&file.path, number, format!("`{word}` {text}")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod bites {
    use super::*;

    fn file(path: &str, text: &str) -> TextFile {
        TextFile {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn a_path_of_a_machine() {
        let bad = format!("a\nsee {}main\n", MACHINE_FOLDERS[0]);
        assert_eq!(machine_paths(&file("README.md", &bad))[0].place, "README.md:2");
        assert_eq!(
            machine_paths(&file("a.toml", &format!("a = \"{}b\"", MACHINE_FOLDERS[1]))).len(),
            1
        );
        let good = format!(
            "our own $HOME{}main, example.org{}a\n",
            MACHINE_FOLDERS[0], MACHINE_FOLDERS[0]
        );
        assert!(machine_paths(&file("README.md", &good)).is_empty());
    }

    #[test]
    fn a_registry() {
        let bad = format!("index-url = https://{}/simple\n", REGISTRIES[1]);
        assert_eq!(registries(&file("pip.conf", &bad)).len(), 1);
        assert!(registries(&file("README.md", "example.org\n")).is_empty());
    }

    #[test]
    fn a_word_that_puts_work_off() {
        for word in UNSTABLE {
            assert_eq!(
                unstable_words(&file("a.rs", &format!("// {word}: later\n"))).len(),
                1,
                "{word}"
            );
            assert!(
                unstable_words(&file("a.rs", &format!("// A{word}S\n"))).is_empty(),
                "{word}"
            );
        }
    }

    #[test]
    fn a_sleep_in_a_script() {
        for (ending, word) in SLEEPS {
            let bad = file(&format!("demo/a{ending}"), &format!("    {word}1)\n"));
            assert_eq!(sleeps(&bad).len(), 1, "{ending}");
            assert!(sleeps(&file("docs/a.md", &bad.text)).is_empty(), "{ending}");
        }
    }
}
