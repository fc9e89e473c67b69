//! Pages: their code blocks, links, headings and tables.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// Folders that hold nothing of ours.
const SKIPPED: [&str; 4] = ["target", ".deps", ".git", "node_modules"];

/// One page.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// A code block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fence {
    pub(crate) language: String,
    pub(crate) text: String,
}

impl Page {
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Ok(Self {
            path: path.to_owned(),
            text,
        })
    }

    /// Every page below a folder.
    pub(crate) fn all(folder: &Path) -> anyhow::Result<Vec<Self>> {
        let (mut pages, mut folders) = (Vec::new(), vec![folder.to_owned()]);
        while let Some(folder) = folders.pop() {
            for found in std::fs::read_dir(&folder)? {
                let (path, kind) = (
                    found.as_ref().map(std::fs::DirEntry::path),
                    found.as_ref().map(std::fs::DirEntry::file_type),
                );
                let (Ok(path), Ok(Ok(kind))) = (path, kind) else {
                    continue;
                };
                let name = path
                    .file_name()
                    .and_then(|name| name.to_str())
                    .unwrap_or_default();
                if kind.is_dir() && !SKIPPED.contains(&name) {
                    folders.push(path);
                } else if kind.is_file() && name.ends_with(".md") {
                    pages.push(Self::read(&path)?);
                }
            }
        }
        pages.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(pages)
    }

    /// Its code blocks.
    pub(crate) fn fences(&self) -> Vec<Fence> {
        let mut fences: Vec<Fence> = Vec::new();
        let mut open = false;
        for line in self.text.lines() {
            match (line.trim_start().strip_prefix("```"), fences.last_mut()) {
                (Some(_), _) if open => open = false,
                (Some(language), _) => {
                    open = true;
                    let language = language.trim().to_owned();
                    fences.push(Fence {
                        language,
                        text: String::new(),
                    });
                }
                (None, Some(fence)) if open => {
                    fence.text.push_str(line);
                    fence.text.push('\n');
                }
                (None, _) => {}
            }
        }
        fences
    }

    /// Its lines outside code blocks.
    pub(crate) fn prose(&self) -> impl Iterator<Item = &str> {
        let mut open = false;
        self.text.lines().filter(move |line| {
            let fence = line.trim_start().starts_with("```");
            open ^= fence;
            !fence && !open
        })
    }

    /// Where its links lead, other than to the web.
    pub(crate) fn links(&self) -> Vec<&str> {
        let targets = self.prose().flat_map(|line| line.split("](").skip(1));
        let targets = targets.filter_map(|rest| rest.split(')').next());
        targets
            .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
            .collect()
    }

    /// The anchors of its headings, as forges make them.
    pub(crate) fn anchors(&self) -> Vec<String> {
        let headings = self.prose().filter(|line| line.starts_with('#'));
        headings
            .map(|line| anchor(line.trim_start_matches('#').trim()))
            .collect()
    }

    /// The cells of the rows of the table whose head begins with `first`, without the head.
    pub(crate) fn table(&self, first: &str) -> Vec<Vec<String>> {
        let cells = |line: &str| -> Vec<String> {
            let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
            inner.split('|').map(|cell| cell.trim().to_owned()).collect()
        };
        let head = format!("| {first} |");
        let rows = self
            .text
            .lines()
            .skip_while(|line| !line.starts_with(&head))
            .skip(2);
        rows.take_while(|line| line.starts_with('|')).map(cells).collect()
    }
}

fn anchor(heading: &str) -> String {
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// The texts in backticks.
pub(crate) fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> Page {
        Page {
            path: PathBuf::from("a.md"),
            text: text.to_owned(),
        }
    }

    #[test]
    fn code_is_told_from_prose() {
        let page = page("# A `b`: c\n[x](y.md#z) and [w](https://w)\n```sh\n[no](link)\n```\n");
        assert_eq!(page.links(), ["y.md#z"]);
        assert_eq!(
            page.fences(),
            [Fence {
                language: "sh".to_owned(),
                text: "[no](link)\n".to_owned()
            }]
        );
        assert_eq!(page.anchors(), ["a-b-c"]);
    }

    #[test]
    fn tables_are_found_by_their_head() {
        let page = page("| x | y |\n|---|---|\n| 1 | 2 |\n\n| a | b |\n|---|---|\n| `c` | `d`, `e` |\n");
        assert_eq!(page.table("a"), [["`c`", "`d`, `e`"]]);
        assert_eq!(quoted("`d`, `e`"), ["d", "e"]);
        assert!(page.table("z").is_empty());
    }
}
