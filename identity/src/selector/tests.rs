//! Selectors: two parts at the first colon, nothing normalised.

use proptest::prelude::*;

use super::*;

#[test]
fn the_first_colon_parts_type_and_value() {
    let selector: Selector = "k8s:pod-label:app:web".parse().unwrap();
    assert_eq!(selector.kind(), "k8s");
    assert_eq!(selector.value(), "pod-label:app:web");
    assert_eq!(selector.to_string(), "k8s:pod-label:app:web");
}

#[test]
fn what_is_no_selector_is_refused_with_its_reason() {
    let refused = |text: &str| text.parse::<Selector>().unwrap_err();
    assert_eq!(refused("unix"), SelectorError::NoColon("unix".to_owned()));
    assert_eq!(refused(""), SelectorError::NoColon(String::new()));
    assert_eq!(refused(":1000"), SelectorError::BadType(String::new()));
    assert_eq!(refused("unix:"), SelectorError::EmptyValue("unix".to_owned()));
    assert_eq!(
        Selector::new("a:b", "c"),
        Err(SelectorError::BadType("a:b".to_owned()))
    );
    let long = format!("unix:{}", "x".repeat(MAX_SELECTOR_BYTES - 4));
    assert_eq!(refused(&long), SelectorError::TooLong(MAX_SELECTOR_BYTES + 1));
    assert!(long[..MAX_SELECTOR_BYTES].parse::<Selector>().is_ok());
}

#[test]
fn stored_selectors_are_checked_when_read_back() {
    let selector: Selector = serde_json::from_str("\"unix:uid:0\"").unwrap();
    assert_eq!(serde_json::to_string(&selector).unwrap(), "\"unix:uid:0\"");
    assert!(serde_json::from_str::<Selector>("\"unix\"").is_err());
}

proptest! {
    #[test]
    fn reading_what_was_written_gives_the_same(kind in "[^:]{1,12}", value in "\\PC{1,40}") {
        let selector = Selector::new(&kind, &value).unwrap();
        prop_assert_eq!(selector.to_string().parse::<Selector>().unwrap(), selector.clone());
        prop_assert_eq!((selector.kind(), selector.value()), (&*kind, &*value));
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,60}") {
        if let Ok(selector) = text.parse::<Selector>() {
            prop_assert_eq!(selector.to_string(), text);
        }
    }
}
