//! The commands in a block of shell: enough of its grammar for what pages show.

/// What is put in the place of a command whose output is used.
const OUTPUT: &str = "x";

/// The commands of a block, each as its words. Of a `console` block only lines that begin with `$ ` are commands.
pub(crate) fn commands(language: &str, text: &str) -> Vec<Vec<String>> {
    let text = match language {
        "sh" => text.to_owned(),
        "console" => prompts(text),
        _ => return Vec::new(),
    };
    let mut found = Vec::new();
    split(&text, &mut found);
    found
        .into_iter()
        .map(plain)
        .filter(|words| !words.is_empty())
        .collect()
}

fn prompts(text: &str) -> String {
    let (mut kept, mut goes_on) = (String::new(), false);
    for line in text.lines() {
        let command = line.strip_prefix("$ ").or(goes_on.then_some(line));
        if let Some(command) = command {
            kept.push_str(command);
            kept.push('\n');
        }
        goes_on = command.is_some_and(|command| command.ends_with('\\'));
    }
    kept
}

/// Splits at operators and unquoted ends of lines.
fn split(text: &str, found: &mut Vec<Vec<String>>) {
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut redirected = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some('\''), '\'') | (Some('"'), '"') => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (None | Some('"'), '\\') => match chars.next() {
                Some('\n') | None => {}
                Some(escaped) => word.get_or_insert_default().push(escaped),
            },
            (None | Some('"'), '$') if chars.peek() == Some(&'(') => {
                split(&until_closed(&mut chars), found);
                word.get_or_insert_default().push_str(OUTPUT);
            }
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => {
                while chars.peek().is_some_and(|c| *c != '\n') {
                    chars.next();
                }
            }
            (None, ' ' | '\t' | '\n' | '|' | '&' | ';' | '(' | ')' | '<' | '>') => {
                if let Some(word) = word.take()
                    && !std::mem::take(&mut redirected)
                {
                    words.push(word);
                }
                redirected |= matches!(c, '<' | '>');
                if matches!(c, '\n' | '|' | '&' | ';' | '(' | ')') {
                    found.push(std::mem::take(&mut words));
                }
            }
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word.filter(|_| !redirected));
    found.push(words);
}

/// The text of `$(…)`, of which the `$` is read already.
fn until_closed(chars: &mut impl Iterator<Item = char>) -> String {
    let (mut depth, mut inner) = (0_usize, String::new());
    for c in chars {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            break;
        }
        inner.push(c);
    }
    inner.strip_prefix('(').unwrap_or(&inner).to_owned()
}

/// A command without what stands before it: variables, `sudo`, `cargo run`.
fn plain(words: Vec<String>) -> Vec<String> {
    let is_variable = |word: &str| {
        word.split_once('=')
            .is_some_and(|(name, _)| !name.is_empty() && !name.contains(['-', '/']))
    };
    let mut rest = words.as_slice();
    loop {
        rest = match rest {
            [first, after @ ..] if is_variable(first) || first == "export" => after,
            [sudo, user, _, after @ ..] if sudo == "sudo" && user == "-u" => after,
            [sudo, after @ ..] if sudo == "sudo" => after,
            [cargo, run, bin, name, dashes, after @ ..]
                if (cargo.as_str(), run.as_str(), bin.as_str(), dashes.as_str())
                    == ("cargo", "run", "--bin", "--") =>
            {
                return [std::slice::from_ref(name), after].concat();
            }
            _ => return rest.to_vec(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_taken_apart() {
        let text = "# words\nexport A=1 B='c d'\nsudo -u nobody vouchsafe entry create \\\n    --hint \"a b\" | jq -r .value > 'x y' && ls\n";
        assert_eq!(
            commands("sh", text),
            [
                vec!["vouchsafe", "entry", "create", "--hint", "a b"],
                vec!["jq", "-r", ".value"],
                vec!["ls"],
            ]
        );
    }

    #[test]
    fn commands_within_commands_are_found() {
        let text = "TOKEN=$(vouchsafe token generate)\nvouchsafe-agent run --join-token \"$(cat t)\"\n";
        assert_eq!(
            commands("sh", text),
            [
                vec!["vouchsafe", "token", "generate"],
                vec!["cat", "t"],
                vec!["vouchsafe-agent", "run", "--join-token", "x"],
            ]
        );
    }

    #[test]
    fn of_a_console_the_prompts_are_commands() {
        assert_eq!(
            commands("console", "$ vouchsafe \\\n  health\nserver is serving\n"),
            [["vouchsafe", "health"]]
        );
        assert!(commands("toml", "a = 1\n").is_empty());
        assert_eq!(
            commands("sh", "cargo run --bin vouchsafe -- dev\n"),
            [["vouchsafe", "dev"]]
        );
    }
}
