//! `RECORD` of an installed Python package (PEP 376, PEP 427): which files an installer put where, with their hashes. Pure
//! functions: no IO.

/// Largest `RECORD` that is read, in bytes; one of ten thousand files has about one million.
pub const MAX_RECORD_BYTES: usize = 16 * 1024 * 1024;

/// Why a file is no `RECORD`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Longer than any real one.
    #[error("it has more than {MAX_RECORD_BYTES} bytes")]
    TooLong,
    /// Python writes it as UTF-8.
    #[error("it is not UTF-8")]
    NotText,
    /// A quote that opens and does not close, one within a word, or a row that ends otherwise than with a line.
    #[error("row {0} has a quote or the end of a line out of place")]
    Quote(usize),
    /// Not path, hash and size.
    #[error("row {0} has not three columns: path, hash, size")]
    Columns(usize),
    /// A path of nothing, or with a NUL.
    #[error("row {0} names no file")]
    Path(usize),
}

/// A file that was installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// From the folder of packages on, or absolute. It may lead out of that folder, as scripts do.
    pub path: String,
    /// SHA-256 in base64 for URLs, without padding; `None` where the file has none of that kind: `RECORD` itself, and
    /// compiled files.
    pub sha256: Option<String>,
}

impl Installed {
    /// Reads all rows.
    ///
    /// # Errors
    /// [`RecordError`], with the number of the row.
    pub fn parse(bytes: &[u8]) -> Result<Vec<Self>, RecordError> {
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(RecordError::TooLong);
        }
        let mut rest = std::str::from_utf8(bytes).map_err(|_| RecordError::NotText)?;
        let (mut files, mut number) = (Vec::new(), 0);
        while !rest.is_empty() {
            number += 1;
            let (row, after) = row(rest).ok_or(RecordError::Quote(number))?;
            rest = after;
            match row.as_slice() {
                [empty] if empty.is_empty() => {}
                [path, hash, _size] => {
                    if path.is_empty() || path.contains('\0') {
                        return Err(RecordError::Path(number));
                    }
                    files.push(Self {
                        path: path.clone(),
                        sha256: hash.strip_prefix("sha256=").map(str::to_owned),
                    });
                }
                _ => return Err(RecordError::Columns(number)),
            }
        }
        Ok(files)
    }
}

/// The fields of the first row (RFC 4180), and what comes after it.
fn row(text: &str) -> Option<(Vec<String>, &str)> {
    let (mut fields, mut rest) = (Vec::new(), text);
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => {
                let end = rest.find([',', '\n', '\r']).unwrap_or(rest.len());
                let (field, after) = rest.split_at(end);
                (
                    Some(field.to_owned()).filter(|field| !field.contains('"'))?,
                    after,
                )
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Some((fields, after)),
            None => {
                let next = after.strip_prefix('\r').unwrap_or(after).strip_prefix('\n');
                return next.map(|next| (fields, next));
            }
        }
    }
}

/// What stands up to the closing quote, and what comes after that.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let (mut field, mut rest) = (String::new(), text);
    loop {
        let (part, after) = rest.split_once('"')?;
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return Some((field, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<(String, Option<String>)>, RecordError> {
        let files = Installed::parse(text.as_bytes())?;
        Ok(files.into_iter().map(|file| (file.path, file.sha256)).collect())
    }

    fn file(path: &str, hash: Option<&str>) -> (String, Option<String>) {
        (path.to_owned(), hash.map(str::to_owned))
    }

    #[test]
    fn what_installers_write_is_understood() {
        let text = "../../../bin/x,sha256=AbC_-,12\r\na/__init__.py,sha256=x,0\n\n\"a,\"\"b\"\".py\",sha256=y,1\n\
                    a-1.dist-info/RECORD,,\na/b.pyc,,\nold.py,md5=x,3";
        let expected = [
            file("../../../bin/x", Some("AbC_-")),
            file("a/__init__.py", Some("x")),
            file("a,\"b\".py", Some("y")),
            file("a-1.dist-info/RECORD", None),
            file("a/b.pyc", None),
            file("old.py", None),
        ];
        assert_eq!(parsed(text).unwrap(), expected);
        assert!(parsed("").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_record_is_refused_by_its_row() {
        for (text, refused) in [
            ("a,b\n", RecordError::Columns(1)),
            ("a,,\nb,,,\n", RecordError::Columns(2)),
            ("\"a,,\n", RecordError::Quote(1)),
            ("a\"b,,\n", RecordError::Quote(1)),
            ("\"a\"b,,\n", RecordError::Quote(1)),
            ("a\rb,,\n", RecordError::Quote(1)),
            (",,\n", RecordError::Path(1)),
            ("a\0,,\n", RecordError::Path(1)),
        ] {
            assert_eq!(parsed(text), Err(refused), "{text:?}");
        }
        assert_eq!(Installed::parse(b"\xff,,\n"), Err(RecordError::NotText));
        let long = vec![b'\n'; MAX_RECORD_BYTES + 1];
        assert_eq!(Installed::parse(&long), Err(RecordError::TooLong));
    }
}
