//! The files that the rules read: those that git tracks or would track, or a made-up tree given as text.
//! Rust files are read as tokens, so that comments and strings cannot be mistaken for code.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// One place where a rule is broken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) place: String,
    pub(crate) text: String,
}

impl Finding {
    pub(crate) fn at(file: &str, line: usize, text: impl Into<String>) -> Self {
        Self {
            place: format!("{file}:{line}"),
            text: text.into(),
        }
    }

    pub(crate) fn of(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            text: text.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// A file of text, by its path from the top of the repository.
#[derive(Debug)]
pub(crate) struct TextFile {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// All text files of a repository.
#[derive(Debug)]
pub(crate) struct Tree {
    files: Vec<TextFile>,
}

impl Tree {
    /// What git tracks, and what it would track if it were added now.
    pub(crate) fn of_repository(top: &Path) -> anyhow::Result<Self> {
        let git = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let output = Command::new("git")
            .current_dir(top)
            .args(git)
            .output()
            .context("cannot run git")?;
        ensure!(
            output.status.success(),
            "git: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let mut files = Vec::new();
        for path in String::from_utf8(output.stdout)?.split_terminator('\0') {
            // A file that was deleted but not yet committed is not there; one that is not text has no rules.
            if let Ok(bytes) = std::fs::read(top.join(path))
                && let Ok(text) = String::from_utf8(bytes)
            {
                files.push(TextFile {
                    path: path.to_owned(),
                    text,
                });
            }
        }
        Ok(Self { files })
    }

    /// The files that people write: lock files are written by tools.
    pub(crate) fn written(&self) -> impl Iterator<Item = &TextFile> {
        self.files
            .iter()
            .filter(|file| !matches!(file.name(), "Cargo.lock" | "go.sum"))
    }

    pub(crate) fn rust_files(&self) -> anyhow::Result<Vec<RustFile>> {
        let rust = self.files.iter().filter(|file| file.path.ends_with(".rs"));
        rust.map(|file| RustFile::parse(&file.path, &file.text)).collect()
    }
}

impl TextFile {
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line))
    }
}

/// A token of a Rust file. Doc comments are not among them; delimiters are.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
    /// How many delimiters stand open around it.
    pub(crate) depth: usize,
}

#[derive(Debug)]
pub(crate) struct RustFile {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) tokens: Vec<Token>,
    /// The index of the first token of the tests that close the file, or of its end.
    tests_from: usize,
}

impl RustFile {
    pub(crate) fn parse(path: &str, text: &str) -> anyhow::Result<Self> {
        let stream: TokenStream = text.parse().map_err(|error| anyhow::anyhow!("{path}: {error}"))?;
        let mut tokens = Vec::new();
        flatten(stream, 0, &mut tokens);
        let whole_file = is_test_path(path);
        let mut file = Self {
            path: path.to_owned(),
            text: text.to_owned(),
            tests_from: 0,
            tokens,
        };
        if !whole_file {
            let marked = file.find(&["#", "[", "cfg", "(", "test", ")", "]"]);
            let tests = marked.into_iter().find(|index| file.opens_module(*index));
            file.tests_from = tests.unwrap_or(file.tokens.len());
        }
        Ok(file)
    }

    /// Whether the attributes that begin at this token are those of a module.
    fn opens_module(&self, index: usize) -> bool {
        let depth = self.tokens.get(index).map_or(0, |token| token.depth);
        let here = self
            .tokens
            .iter()
            .skip(index)
            .filter(|token| token.depth == depth);
        here.map(|token| token.text.as_str())
            .find(|text| !["#", "[", "]", "pub", "(", ")"].contains(text))
            == Some("mod")
    }

    /// The tokens that are compiled into what is shipped.
    pub(crate) fn production(&self) -> &[Token] {
        self.tokens.get(..self.tests_from).unwrap_or_default()
    }

    /// The tokens that are compiled into tests only.
    pub(crate) fn tests(&self) -> &[Token] {
        self.tokens.get(self.tests_from..).unwrap_or_default()
    }

    /// Lines of production code: blank lines and comments do not count.
    pub(crate) fn production_lines(&self) -> usize {
        self.production()
            .iter()
            .map(|token| token.line)
            .collect::<HashSet<_>>()
            .len()
    }

    /// Where a sequence of tokens begins.
    pub(crate) fn find<'a>(&'a self, sequence: &'a [&str]) -> impl Iterator<Item = usize> + 'a {
        find(&self.tokens, sequence)
    }
}

/// Where a sequence of tokens begins.
pub(crate) fn find<'a>(tokens: &'a [Token], sequence: &'a [&str]) -> impl Iterator<Item = usize> + 'a {
    tokens
        .windows(sequence.len())
        .enumerate()
        .filter(move |(_, window)| {
            window
                .iter()
                .zip(sequence)
                .all(|(token, text)| token.text == *text)
        })
        .map(|(index, _)| index)
}

/// The test package, and the files that hold the longer tests of a module.
fn is_test_path(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs")
}

fn flatten(stream: TokenStream, depth: usize, into: &mut Vec<Token>) {
    let mut trees = stream.into_iter().peekable();
    while let Some(tree) = trees.next() {
        if is_doc(&tree, trees.peek()) {
            // An inner doc comment is `#`, `!`, and the brackets.
            let inner = matches!(&tree, TokenTree::Punct(punct) if punct.as_char() == '!');
            into.pop_if(|last| inner && last.text == "#");
            trees.next();
            continue;
        }
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                let end = group.span_close().end().line;
                into.push(Token {
                    text: open.to_owned(),
                    line,
                    depth,
                });
                flatten(group.stream(), depth + 1, into);
                into.push(Token {
                    text: close.to_owned(),
                    line: end,
                    depth,
                });
            }
            TokenTree::Punct(punct) => {
                // `::` is one token to a reader.
                let joined = punct.spacing() == Spacing::Joint && punct.as_char() == ':';
                match into.last_mut() {
                    Some(last) if last.text == ":+" => last.text = "::".to_owned(),
                    _ if joined => into.push(Token {
                        text: ":+".to_owned(),
                        line,
                        depth,
                    }),
                    _ => into.push(Token {
                        text: punct.as_char().to_string(),
                        line,
                        depth,
                    }),
                }
            }
            TokenTree::Ident(ident) => into.push(Token {
                text: ident.to_string(),
                line,
                depth,
            }),
            TokenTree::Literal(_) => into.push(Token {
                text: "\"\"".to_owned(),
                line,
                depth,
            }),
        }
    }
}

/// Whether a `#`, or the `!` of an inner one, opens a doc comment.
fn is_doc(tree: &TokenTree, next: Option<&TokenTree>) -> bool {
    let hash = matches!(tree, TokenTree::Punct(punct) if matches!(punct.as_char(), '#' | '!'));
    let Some(TokenTree::Group(group)) = next else {
        return false;
    };
    let first = group.stream().into_iter().next();
    hash && matches!(first, Some(TokenTree::Ident(ident)) if ident == "doc")
}

#[test]
fn comments_strings_and_docs_are_not_code() {
    let text = "//! unsafe\n/// unsafe\nfn a() { let b = \"unsafe\"; /* unsafe */ }\n";
    let file = RustFile::parse("a/src/lib.rs", text).unwrap();
    assert_eq!(file.find(&["unsafe"]).count(), 0);
    assert_eq!(file.production_lines(), 1, "{:?}", file.tokens);
}

#[test]
fn tests_at_the_end_of_a_file_are_not_production() {
    let text = "#[cfg(test)]\nuse a::b;\nfn a() {}\n\n#[cfg(test)]\n#[expect(c, reason = \"\")]\nmod tests {\n    fn b() {}\n}\n";
    let file = RustFile::parse("a/src/lib.rs", text).unwrap();
    assert_eq!(file.production_lines(), 3);
    assert_eq!(find(file.tests(), &["fn", "b"]).count(), 1);
    assert!(
        RustFile::parse("a/src/b/tests.rs", text)
            .unwrap()
            .production()
            .is_empty()
    );
}

#[test]
fn paths_are_one_token_a_step() {
    let file = RustFile::parse("a/src/lib.rs", "use std::fs::File;\n").unwrap();
    assert_eq!(file.find(&["std", "::", "fs"]).count(), 1);
}
