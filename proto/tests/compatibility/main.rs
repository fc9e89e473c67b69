//! Refuses a change of the .proto files that would break a peer, by the committed listing of what they promise.
//!
//! Additions are written with `UPDATE_PROTO=1`; what is incompatible is refused even then, unless its lines are
//! first removed from the listing by hand.
#![expect(clippy::unwrap_used, reason = "tests")]

mod listing;

use std::path::Path;
use std::{env, fs, io};

use listing::{Listing, Verdict};
use prost_reflect::DescriptorPool;

#[test]
fn the_proto_files_keep_what_was_promised() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("committed/descriptors.txt");
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read.unwrap(),
    };
    let committed = Listing::from_text(&text).unwrap();
    let pool = DescriptorPool::decode(vouchsafe_proto::FILE_DESCRIPTOR_SET).unwrap();

    match committed.judge(
        &Listing::of(&pool),
        env::var_os("UPDATE_PROTO").is_some_and(|value| value == "1"),
    ) {
        Verdict::Same => assert_eq!(
            text,
            committed.to_text(),
            "the committed listing is not as it was generated"
        ),
        Verdict::Write(text) => fs::write(&path, text).unwrap(),
        Verdict::Refused(why) => panic!("{why}"),
    }
}

/// A small API with one of each kind of thing.
const BEFORE: &str = r#"
    syntax = "proto3";
    package small.v1;

    service Shop {
      rpc Buy(Order) returns (Receipt);
      rpc Watch(stream Order) returns (stream Receipt);
    }
    service Till { rpc Open(Order) returns (Receipt); }

    message Order {
      reserved 9;
      string item = 1;
      int32 count = 2;
      repeated string notes = 3;
      optional string coupon = 4;
      map<string, bytes> parts = 5;
      Colour colour = 6;
      Receipt earlier = 7;
      oneof payment { string card = 10; bytes cash = 11; }
      message Line { string text = 1; }
    }
    message Receipt { uint64 number = 1; }
    enum Colour { COLOUR_UNSPECIFIED = 0; COLOUR_RED = 1; COLOUR_BLUE = 2; }
"#;

/// Lists the small API after the given replacements, each of which must apply.
fn small_api(replacements: &[(&str, &str)]) -> Listing {
    let mut source = BEFORE.to_owned();
    for (from, to) in replacements {
        assert!(source.contains(from), "`{from}` is not in the small API");
        source = source.replace(from, to);
    }
    let file = protox::file::File::from_source("small.proto", &source).unwrap();
    let mut pool = DescriptorPool::new();
    pool.add_file_descriptor_proto(file.file_descriptor_proto().clone())
        .unwrap();
    Listing::of(&pool)
}

/// A change, its replacements, and the name that the refusal must tell.
type Case = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static str,
);

const INCOMPATIBLE: &[Case] = &[
    (
        "field removed",
        &[("int32 count = 2;", "")],
        "small.v1.Order.count",
    ),
    (
        "field removed, its number kept",
        &[("int32 count = 2;", "reserved 2;")],
        "small.v1.Order.count",
    ),
    (
        "field renumbered",
        &[("int32 count = 2;", "int32 count = 8;")],
        "small.v1.Order.count",
    ),
    (
        "fields swapped",
        &[("item = 1", "item = 2"), ("count = 2", "count = 1")],
        "small.v1.Order.count",
    ),
    (
        "field renamed",
        &[("int32 count", "int32 number")],
        "small.v1.Order.count",
    ),
    (
        "field retyped",
        &[("int32 count", "int64 count")],
        "small.v1.Order.count",
    ),
    (
        "text made bytes",
        &[("string item", "bytes item")],
        "small.v1.Order.item",
    ),
    (
        "message field retyped",
        &[("Receipt earlier", "Line earlier")],
        "small.v1.Order.earlier",
    ),
    (
        "enum field made a number",
        &[("Colour colour", "int32 colour")],
        "small.v1.Order.colour",
    ),
    (
        "one made many",
        &[("string item", "repeated string item")],
        "small.v1.Order.item",
    ),
    (
        "many made one",
        &[("repeated string notes", "string notes")],
        "small.v1.Order.notes",
    ),
    (
        "presence dropped",
        &[("optional string coupon", "string coupon")],
        "small.v1.Order.coupon",
    ),
    (
        "presence added",
        &[("string item", "optional string item")],
        "small.v1.Order.item",
    ),
    (
        "map's key retyped",
        &[("map<string, bytes>", "map<int32, bytes>")],
        "small.v1.Order.parts",
    ),
    (
        "map's value retyped",
        &[("map<string, bytes>", "map<string, string>")],
        "small.v1.Order.parts",
    ),
    (
        "field taken out of its oneof",
        &[
            ("string card = 10; ", ""),
            ("reserved 9;", "reserved 9; string card = 10;"),
        ],
        "small.v1.Order.card",
    ),
    (
        "oneof renamed",
        &[("oneof payment", "oneof means")],
        "small.v1.Order.card",
    ),
    (
        "reserved number freed",
        &[("reserved 9;", "")],
        "small.v1.Order.(9..10)",
    ),
    (
        "nested message removed",
        &[("message Line { string text = 1; }", "")],
        "small.v1.Order.Line",
    ),
    ("message renamed", &[("Receipt", "Bill")], "small.v1.Receipt"),
    (
        "enum value removed",
        &[("COLOUR_RED = 1;", "")],
        "small.v1.Colour.COLOUR_RED",
    ),
    (
        "enum value renumbered",
        &[("COLOUR_RED = 1", "COLOUR_RED = 3")],
        "small.v1.Colour.COLOUR_RED",
    ),
    (
        "enum value renamed",
        &[("COLOUR_RED", "COLOUR_ROUGE")],
        "small.v1.Colour.COLOUR_RED",
    ),
    (
        "enum renamed",
        &[("enum Colour", "enum Paint"), ("Colour colour", "Paint colour")],
        "small.v1.Colour",
    ),
    (
        "method removed",
        &[("rpc Buy(Order) returns (Receipt);", "")],
        "small.v1.Shop.Buy",
    ),
    (
        "method renamed",
        &[("rpc Buy", "rpc Purchase")],
        "small.v1.Shop.Buy",
    ),
    (
        "request retyped",
        &[("Buy(Order)", "Buy(Receipt)")],
        "small.v1.Shop.Buy",
    ),
    (
        "response retyped",
        &[("Buy(Order) returns (Receipt)", "Buy(Order) returns (Order)")],
        "small.v1.Shop.Buy",
    ),
    (
        "request made a stream",
        &[("Buy(Order)", "Buy(stream Order)")],
        "small.v1.Shop.Buy",
    ),
    (
        "response made a stream",
        &[("Buy(Order) returns (", "Buy(Order) returns (stream ")],
        "small.v1.Shop.Buy",
    ),
    (
        "request's stream dropped",
        &[("Watch(stream Order)", "Watch(Order)")],
        "small.v1.Shop.Watch",
    ),
    (
        "response's stream dropped",
        &[("(stream Receipt)", "(Receipt)")],
        "small.v1.Shop.Watch",
    ),
    (
        "service removed",
        &[("service Till { rpc Open(Order) returns (Receipt); }", "")],
        "small.v1.Till",
    ),
    (
        "service renamed",
        &[("service Till", "service Desk")],
        "small.v1.Till",
    ),
    (
        "package renamed",
        &[("package small.v1", "package small.v2")],
        "small.v1.Order",
    ),
];

const ADDITIONS: &[Case] = &[
    (
        "field",
        &[("reserved 9;", "reserved 9; string colour_name = 12;")],
        "small.v1.Order.colour_name",
    ),
    (
        "member of a oneof",
        &[("bytes cash = 11;", "bytes cash = 11; string cheque = 12;")],
        "small.v1.Order.cheque",
    ),
    (
        "reserved number",
        &[("reserved 9;", "reserved 9, 20 to 29;")],
        "small.v1.Order.(20..30)",
    ),
    (
        "enum value",
        &[("COLOUR_RED = 1;", "COLOUR_RED = 1; COLOUR_PINK = 3;")],
        "small.v1.Colour.COLOUR_PINK",
    ),
    (
        "method",
        &[("rpc Buy(", "rpc Sell(Order) returns (Receipt); rpc Buy(")],
        "small.v1.Shop.Sell",
    ),
    (
        "message",
        &[("message Receipt", "message Extra {} message Receipt")],
        "small.v1.Extra",
    ),
    (
        "service",
        &[("service Till", "service Desk {} service Till")],
        "small.v1.Desk",
    ),
];

#[test]
fn every_kind_of_incompatible_change_is_refused_even_when_an_update_is_asked_for() {
    let committed = small_api(&[]);
    for (change, replacements, name) in INCOMPATIBLE {
        for update in [false, true] {
            match committed.judge(&small_api(replacements), update) {
                Verdict::Refused(why) if why.contains("would break") => {
                    assert!(
                        why.contains(&format!("`{name}`")),
                        "{change}: the refusal does not name `{name}`: {why}"
                    );
                }
                other => panic!("{change} (update: {update}) is not refused: {other:?}"),
            }
        }
    }
}

#[test]
fn additions_are_refused_until_an_update_is_asked_for() {
    let committed = small_api(&[]);
    for (change, replacements, name) in ADDITIONS {
        let built = small_api(replacements);
        match committed.judge(&built, false) {
            Verdict::Refused(why) => {
                assert!(
                    why.contains(name) && why.contains("UPDATE_PROTO=1"),
                    "{change}: {why}"
                );
            }
            other => panic!("{change} is not refused: {other:?}"),
        }
        assert_eq!(
            committed.judge(&built, true),
            Verdict::Write(built.to_text()),
            "{change}"
        );
    }
}

#[test]
fn what_was_removed_by_hand_may_go() {
    let built = small_api(&[("int32 count = 2;", "")]);
    let by_hand: String = small_api(&[])
        .to_text()
        .lines()
        .filter(|line| !line.starts_with("small.v1.Order.count:"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(
        Listing::from_text(&by_hand).unwrap().judge(&built, false),
        Verdict::Same
    );
}

#[test]
fn a_listing_survives_being_written_and_read() {
    let listing = small_api(&[]);
    assert_eq!(Listing::from_text(&listing.to_text()).as_ref(), Ok(&listing));
}

#[test]
fn a_damaged_listing_is_refused() {
    let line = "small.v1.Order: message\n";
    assert!(
        Listing::from_text(&format!("{line}{line}"))
            .unwrap_err()
            .contains("`small.v1.Order` is listed twice")
    );
    assert!(
        Listing::from_text("small.v1.Order\n")
            .unwrap_err()
            .contains("`small.v1.Order` is not of the form")
    );
}
