//! What the code logs: the fields of each `tracing` event, and whether its message is fixed.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

const MACROS: [&str; 8] = [
    "trace",
    "debug",
    "info",
    "warn",
    "error",
    "event",
    "info_span",
    "debug_span",
];
/// Names that steer an event and are no fields of it.
const STEERING: [&str; 3] = ["target", "parent", "name"];

/// One event or span.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) line: usize,
    pub(crate) fields: Vec<String>,
    /// Whether values are formatted into the message instead of standing as fields.
    pub(crate) formatted: bool,
}

/// The events of a source text, without those of its `#[cfg(test)]` modules.
pub(crate) fn events(source: &str) -> anyhow::Result<Vec<Event>> {
    let tokens: TokenStream = source.parse().map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut found = Vec::new();
    walk(tokens, &mut found);
    Ok(found)
}

fn walk(tokens: TokenStream, found: &mut Vec<Event>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut test_only = false;
    for (n, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else { continue };
        let inner = group.stream();
        if group.delimiter() == Delimiter::Bracket && inner.to_string().replace(' ', "") == "cfg(test)" {
            test_only = true;
        } else if group.delimiter() == Delimiter::Brace && std::mem::take(&mut test_only) {
            // The body of a test module.
        } else if let Some(line) = macro_before(&tokens, n) {
            found.push(event(line, inner));
        } else {
            walk(inner, found);
        }
    }
}

/// The line of the macro call whose arguments stand at `n`.
fn macro_before(tokens: &[TokenTree], n: usize) -> Option<usize> {
    let TokenTree::Punct(mark) = tokens.get(n.checked_sub(1)?)? else {
        return None;
    };
    let TokenTree::Ident(name) = tokens.get(n.checked_sub(2)?)? else {
        return None;
    };
    let called = mark.as_char() == '!' && MACROS.contains(&name.to_string().as_str());
    called.then(|| name.span().start().line)
}

fn event(line: usize, arguments: TokenStream) -> Event {
    let (mut fields, mut formatted) = (Vec::new(), false);
    let mut message = false;
    for argument in split_at_commas(arguments) {
        match argument.as_slice() {
            [TokenTree::Literal(text)] => {
                formatted |= text.to_string().replace("{{", "").contains('{');
                message = true;
            }
            _ if message => formatted = true,
            argument => fields.extend(field(argument)),
        }
    }
    Event {
        line,
        fields,
        formatted,
    }
}

/// `name = value`, `name`, `%name`, `?a.b`.
fn field(argument: &[TokenTree]) -> Option<String> {
    let mut name = String::new();
    let mut last = String::new();
    for token in argument {
        match token {
            TokenTree::Punct(mark) if "%?".contains(mark.as_char()) && name.is_empty() => {}
            TokenTree::Punct(mark) if mark.as_char() == '.' => name.push('.'),
            TokenTree::Punct(mark) if mark.as_char() == '=' => return Some(name),
            TokenTree::Punct(mark) if mark.as_char() == ':' && STEERING.contains(&name.as_str()) => {
                return None;
            }
            TokenTree::Ident(ident) => {
                last = ident.to_string();
                name.push_str(&last);
            }
            _ => return None,
        }
    }
    // A level (`Level::INFO`) is no field; a path's shorthand is named whole.
    (!name.is_empty() && !last.is_empty()).then_some(name)
}

fn split_at_commas(tokens: TokenStream) -> Vec<Vec<TokenTree>> {
    let mut parts = vec![Vec::new()];
    for token in tokens {
        match (&token, parts.last_mut()) {
            (TokenTree::Punct(mark), _) if mark.as_char() == ',' => parts.push(Vec::new()),
            (_, Some(part)) => part.push(token),
            (_, None) => {}
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_named_in_every_notation() {
        let source = r#"fn a() { tracing::warn!(target: "x", a = 1, %b, c = ?d.e(f, g), h.i, "text"); }"#;
        let found = events(source).unwrap();
        assert_eq!(
            found,
            [Event {
                line: 1,
                fields: ["a", "b", "c", "h.i"].map(String::from).to_vec(),
                formatted: false
            }]
        );
    }

    #[test]
    fn values_in_the_message_are_found() {
        for bad in [
            r#"info!("x {y}");"#,
            r#"info!("x {}", y);"#,
            r#"info!(a, "x {y:?}");"#,
        ] {
            assert!(
                events(&format!("fn a() {{ {bad} }}")).unwrap()[0].formatted,
                "{bad}"
            );
        }
        assert!(!events(r#"fn a() { info!("{{}}"); }"#).unwrap()[0].formatted);
    }

    #[test]
    fn tests_may_log_as_they_like() {
        assert!(
            events("#[cfg(test)] mod tests { fn a() { info!(odd = 1, \"x\"); } }")
                .unwrap()
                .is_empty()
        );
        assert_eq!(
            events("#[cfg(test)] mod tests { } fn a() { info!(\"x\"); }")
                .unwrap()
                .len(),
            1
        );
    }
}
