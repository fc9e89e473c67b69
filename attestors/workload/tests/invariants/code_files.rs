//! What must hold of the files that say what code runs, whatever bytes they have.

use vouchsafe_workload_attestors::{Installed, Pyvenv, Shebang, ShebangError};

/// Reads the bytes as a `pyvenv.cfg`, as a `RECORD` and as the head of a script.
pub(crate) fn check(bytes: &[u8]) {
    pyvenv(bytes);
    record(bytes);
    shebang(bytes);
}

fn record(bytes: &[u8]) {
    let Ok(found) = Installed::parse(bytes) else {
        return;
    };
    let mut again = String::new();
    for file in &found {
        assert!(!file.path.is_empty() && !file.path.contains('\0'));
        let hash = file.sha256.as_ref().map(|hash| format!("sha256={hash}"));
        let hash = hash.unwrap_or_default().replace('"', "\"\"");
        again.push_str(&format!("\"{}\",\"{hash}\",\n", file.path.replace('"', "\"\"")));
    }
    // What it says can be written down and read again.
    assert_eq!(Installed::parse(again.as_bytes()), Ok(found));
}

fn pyvenv(bytes: &[u8]) {
    let Ok(found) = Pyvenv::parse(bytes) else { return };
    assert!(found.home().is_absolute());
    let home = found.home().to_string_lossy().into_owned();
    assert!(!home.chars().any(char::is_control));
    // What it says can be written down and read again.
    let mut again = format!("home = {home}\n");
    if let Some((major, minor)) = found.version() {
        again.push_str(&format!("version = {major}.{minor}.0\n"));
    }
    again.push_str(&format!(
        "include-system-site-packages = {}\n",
        found.system_site()
    ));
    assert_eq!(Pyvenv::parse(again.as_bytes()), Ok(found));
}

fn shebang(bytes: &[u8]) {
    let begins = bytes.starts_with(b"#!");
    match Shebang::parse(bytes) {
        Ok(None) => assert!(!begins),
        Ok(Some(found)) => {
            assert!(begins);
            match found.words() {
                Ok(words) => {
                    assert!(words.first().is_some_and(|first| !first.is_empty()));
                    let line: Vec<u8> = bytes.iter().copied().take_while(|byte| *byte != b'\n').collect();
                    for word in words {
                        assert!(line.windows(word.len()).any(|part| part == word));
                        assert!(!word.contains(&b'\n') && !word.contains(&0));
                    }
                }
                Err(error) => assert!(matches!(error, ShebangError::Env(_))),
            }
        }
        Err(error) => assert!(begins && !matches!(error, ShebangError::Env(_))),
    }
}
