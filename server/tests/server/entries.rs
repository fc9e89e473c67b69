//! Registration entries over the API: rules, batches, masks, pages, filters.

use tonic::Code;
use tonic::transport::Channel;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest, CountEntriesRequest,
    GetAuthorizedEntriesRequest, GetEntryRequest, ListEntriesRequest, count_entries_request,
    list_entries_request,
};
use vouchsafe_proto::spire::api::types::{self, EntryMask, selector_match::MatchBehavior};

use crate::support::*;

async fn client(server: &TestServer) -> EntryClient<Channel> {
    EntryClient::new(server.local().await)
}

/// Code and text for each item.
async fn create(
    client: &mut EntryClient<Channel>,
    entries: Vec<types::Entry>,
) -> Vec<(Code, String, Option<types::Entry>)> {
    let asked = BatchCreateEntryRequest {
        entries,
        output_mask: None,
    };
    let results = client
        .batch_create_entry(asked)
        .await
        .unwrap()
        .into_inner()
        .results;
    let tell = |status: types::Status| (Code::from_i32(status.code), status.message);
    results
        .into_iter()
        .map(|result| {
            let (code, text) = tell(result.status.unwrap());
            (code, text, result.entry)
        })
        .collect()
}

fn good() -> types::Entry {
    entry(&id("/node"), "/workload", 1000)
}

/// Entries that break one rule each, with a word of what is said about it.
fn bad_entries() -> Vec<(types::Entry, &'static str)> {
    let other = types::Spiffeid {
        trust_domain: "other.org".to_owned(),
        path: "/x".to_owned(),
    };
    let bare = types::Spiffeid {
        path: String::new(),
        ..message(&id("/x"))
    };
    let change = |change: &dyn Fn(&mut types::Entry)| {
        let mut entry = good();
        change(&mut entry);
        entry
    };
    vec![
        (change(&|e| e.parent_id = None), "parent_id"),
        (change(&|e| e.parent_id = Some(other.clone())), "parent_id"),
        (change(&|e| e.parent_id = Some(bare.clone())), "no path"),
        (change(&|e| e.spiffe_id = None), "spiffe_id"),
        (change(&|e| e.spiffe_id = Some(other.clone())), "spiffe_id"),
        (change(&|e| e.spiffe_id = Some(bare.clone())), "no path"),
        (
            change(&|e| e.spiffe_id = Some(message(&id("/spire/agent/x")))),
            "/spire",
        ),
        (change(&|e| e.selectors.clear()), "selector"),
        (change(&|e| e.selectors = vec![selector("", "x")]), "selector"),
        (change(&|e| e.selectors = vec![selector("a:b", "x")]), "selector"),
        (
            change(&|e| e.selectors = vec![selector("unix", "")]),
            "empty value",
        ),
        (change(&|e| e.x509_svid_ttl = -1), "x509_svid_ttl"),
        (change(&|e| e.jwt_svid_ttl = -1), "jwt_svid_ttl"),
        (change(&|e| e.expires_at = -1), "expires_at"),
        (change(&|e| e.hint = "h".repeat(1025)), "hint"),
        (change(&|e| e.dns_names = vec!["a b".to_owned()]), "DNS name"),
        (
            change(&|e| e.dns_names = vec!["*.a.org".to_owned(), "b.a.org".to_owned()]),
            "covered",
        ),
        (
            change(&|e| e.dns_names = vec!["a.org".to_owned(), "A.org".to_owned()]),
            "covered",
        ),
        (
            change(&|e| e.federates_with = vec!["unknown.org".to_owned()]),
            "no bundle",
        ),
        (
            change(&|e| e.federates_with = vec![TRUST_DOMAIN.to_owned()]),
            "own trust domain",
        ),
        (
            change(&|e| e.federates_with = vec!["Bad Domain".to_owned()]),
            "federates_with",
        ),
        (change(&|e| e.id = "a/b".to_owned()), "a/b"),
        (change(&|e| e.id = "a".repeat(256)), "not an entry id"),
        (
            change(&|e| {
                e.store_svid = true;
                e.selectors = vec![selector("a", "1"), selector("b", "1")];
            }),
            "one type",
        ),
    ]
}

#[tokio::test]
async fn entries_that_break_a_rule_are_refused_each_by_itself() {
    let server = server().await;
    let mut client = client(&server).await;
    let bad = bad_entries();
    let mut items: Vec<types::Entry> = bad.iter().map(|(entry, _)| entry.clone()).collect();
    items.push(good());
    let results = create(&mut client, items).await;
    for ((entry, named), (code, text, made)) in bad.iter().zip(&results) {
        assert_eq!(*code, Code::InvalidArgument, "{entry:?}");
        assert!(text.contains(named), "`{text}` does not name `{named}`");
        assert!(made.is_none());
    }
    let (code, _, made) = results.last().unwrap();
    assert_eq!(*code, Code::Ok);
    assert_eq!(made.as_ref().unwrap().created_at, START);
    let count = client
        .count_entries(CountEntriesRequest::default())
        .await
        .unwrap();
    assert_eq!(count.into_inner().count, 1);
}

#[tokio::test]
async fn a_similar_entry_is_refused_with_the_one_that_stands() {
    let server = server().await;
    let mut client = client(&server).await;
    let first = create(&mut client, vec![good()]).await.pop().unwrap().2.unwrap();
    let mut again = good();
    again.hint = "another".to_owned();
    let mut taken = entry(&id("/node"), "/other", 1);
    taken.id = first.id.clone();
    let results = create(
        &mut client,
        vec![again.clone(), entry(&id("/node"), "/third", 1), taken, again],
    )
    .await;
    let codes: Vec<Code> = results.iter().map(|result| result.0).collect();
    assert_eq!(
        codes,
        [
            Code::AlreadyExists,
            Code::Ok,
            Code::AlreadyExists,
            Code::AlreadyExists
        ]
    );
    assert_eq!(results[0].1, "similar entry already exists");
    assert_eq!(results[0].2.as_ref(), Some(&first));
    assert!(
        results[2].2.is_none(),
        "another entry than the one that was asked for"
    );
    let twice = vec![entry(&id("/node"), "/twice", 1), entry(&id("/node"), "/twice", 1)];
    let results = create(&mut client, twice).await;
    assert_eq!((results[0].0, results[1].0), (Code::Ok, Code::AlreadyExists));
    assert_eq!(results[0].2, results[1].2);
}

#[tokio::test]
async fn everything_that_is_written_comes_back() {
    let server = server().await;
    let mut client = client(&server).await;
    let mut full = entry(&id("/node"), "/full", 7);
    full.id = "my-entry.1".to_owned();
    full.selectors.push(selector("unix", "path:/bin/a"));
    full.selectors.sort_by(|a, b| a.value.cmp(&b.value));
    full.x509_svid_ttl = 60;
    full.jwt_svid_ttl = 61;
    full.admin = true;
    full.downstream = true;
    full.expires_at = START + 1_000_000;
    full.dns_names = vec!["b.org".to_owned(), "a.org".to_owned()];
    full.store_svid = true;
    full.hint = "h".to_owned();
    full.additional_attributes = Some(types::entry::AdditionalAttributes {
        disable_x509_svid_prefetch: true,
        jwt_svid_include_jti: true,
    });
    let made = create(&mut client, vec![full.clone()])
        .await
        .pop()
        .unwrap()
        .2
        .unwrap();
    full.created_at = START;
    // Of an id that was chosen, numbers begin where no earlier entry of it got to.
    full.revision_number = made.revision_number;
    assert_eq!(made, full);
    let asked = GetEntryRequest {
        id: full.id.clone(),
        output_mask: None,
    };
    assert_eq!(client.get_entry(asked.clone()).await.unwrap().into_inner(), full);
    let masked = GetEntryRequest {
        output_mask: Some(EntryMask {
            hint: true,
            ..EntryMask::default()
        }),
        ..asked
    };
    let only = types::Entry {
        id: full.id.clone(),
        hint: "h".to_owned(),
        ..types::Entry::default()
    };
    assert_eq!(client.get_entry(masked).await.unwrap().into_inner(), only);
    for missing in ["", "none", "a/b"] {
        let asked = GetEntryRequest {
            id: missing.to_owned(),
            output_mask: None,
        };
        let code = client.get_entry(asked).await.unwrap_err().code();
        assert_eq!(
            code,
            if missing == "none" {
                Code::NotFound
            } else {
                Code::InvalidArgument
            }
        );
    }
}

#[tokio::test]
async fn an_update_changes_what_its_mask_picks_and_counts() {
    let server = server().await;
    let mut client = client(&server).await;
    let made = create(&mut client, vec![good(), entry(&id("/node"), "/second", 2)]).await;
    let (first, second) = (made[0].2.clone().unwrap(), made[1].2.clone().unwrap());
    server.clock.jump(time::Duration::seconds(5));
    let update = |entries: Vec<types::Entry>, input_mask| BatchUpdateEntryRequest {
        entries,
        input_mask,
        output_mask: None,
    };
    let hint = EntryMask {
        hint: true,
        ..EntryMask::default()
    };
    let changed = types::Entry {
        id: first.id.clone(),
        hint: "new".to_owned(),
        ..types::Entry::default()
    };
    let unknown = types::Entry {
        id: "none".to_owned(),
        ..changed.clone()
    };
    let nameless = types::Entry::default();
    let asked = update(vec![changed, unknown, nameless], Some(hint));
    let results = client
        .batch_update_entry(asked)
        .await
        .unwrap()
        .into_inner()
        .results;
    let codes: Vec<i32> = results
        .iter()
        .map(|result| result.status.as_ref().unwrap().code)
        .collect();
    assert_eq!(
        codes,
        [0, i32::from(Code::NotFound), i32::from(Code::InvalidArgument)]
    );
    let expected = types::Entry {
        hint: "new".to_owned(),
        revision_number: 1,
        ..first.clone()
    };
    assert_eq!(results[0].entry.as_ref(), Some(&expected));
    // Without a mask every field is taken, and an entry cannot become like another one.
    let clash = types::Entry {
        id: first.id.clone(),
        spiffe_id: second.spiffe_id.clone(),
        selectors: second.selectors.clone(),
        ..good()
    };
    let results = client
        .batch_update_entry(update(vec![clash], None))
        .await
        .unwrap()
        .into_inner()
        .results;
    assert_eq!(
        results[0].status.as_ref().unwrap().code,
        i32::from(Code::AlreadyExists)
    );
    let broken = types::Entry {
        id: first.id,
        selectors: Vec::new(),
        ..good()
    };
    let results = client
        .batch_update_entry(update(vec![broken], None))
        .await
        .unwrap()
        .into_inner()
        .results;
    assert_eq!(
        results[0].status.as_ref().unwrap().code,
        i32::from(Code::InvalidArgument)
    );
}

#[tokio::test]
async fn a_deleted_entry_is_gone_and_its_place_is_free() {
    let server = server().await;
    let mut client = client(&server).await;
    let made = create(&mut client, vec![good()]).await.pop().unwrap().2.unwrap();
    let asked = BatchDeleteEntryRequest {
        ids: vec![made.id.clone(), "none".to_owned(), String::new(), made.id.clone()],
    };
    let results = client
        .batch_delete_entry(asked)
        .await
        .unwrap()
        .into_inner()
        .results;
    let told: Vec<(i32, &str)> = results
        .iter()
        .map(|result| (result.status.as_ref().unwrap().code, result.id.as_str()))
        .collect();
    let (missing, invalid) = (i32::from(Code::NotFound), i32::from(Code::InvalidArgument));
    assert_eq!(
        told,
        [
            (0, made.id.as_str()),
            (missing, "none"),
            (invalid, ""),
            (missing, made.id.as_str())
        ]
    );
    let again = create(&mut client, vec![good()]).await.pop().unwrap();
    assert_eq!(again.0, Code::Ok);
}

#[tokio::test]
async fn pages_and_filters_give_each_entry_once() {
    let server = server().await;
    let mut client = client(&server).await;
    let many: Vec<types::Entry> = (0..23)
        .map(|n| entry(&id("/node"), &format!("/w{}", n % 2), n))
        .collect();
    create(&mut client, many).await;
    let filter = list_entries_request::Filter {
        by_spiffe_id: Some(message(&id("/w1"))),
        ..list_entries_request::Filter::default()
    };
    let mut asked = ListEntriesRequest {
        filter: Some(filter),
        page_size: 4,
        ..ListEntriesRequest::default()
    };
    let (mut seen, mut pages) = (Vec::new(), 0);
    loop {
        let page = client.list_entries(asked.clone()).await.unwrap().into_inner();
        assert!(page.entries.len() <= 4);
        seen.extend(page.entries.into_iter().map(|entry| entry.id));
        pages += 1;
        if page.next_page_token.is_empty() {
            break;
        }
        asked.page_token = page.next_page_token;
    }
    assert_eq!((seen.len(), pages), (11, 3));
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 11);
    let everything = client
        .list_entries(ListEntriesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(everything.entries.len(), 23);
    for (page_size, page_token) in [(-1, ""), (1, "not/a/token")] {
        let asked = ListEntriesRequest {
            page_size,
            page_token: page_token.to_owned(),
            ..ListEntriesRequest::default()
        };
        assert_eq!(
            client.list_entries(asked).await.unwrap_err().code(),
            Code::InvalidArgument
        );
    }
    let by_selectors = types::SelectorMatch {
        selectors: vec![selector("unix", "uid:3"), selector("unix", "uid:5")],
        r#match: MatchBehavior::MatchAny.into(),
    };
    let filter = count_entries_request::Filter {
        by_selectors: Some(by_selectors),
        ..count_entries_request::Filter::default()
    };
    let count = client
        .count_entries(CountEntriesRequest { filter: Some(filter) })
        .await
        .unwrap();
    assert_eq!(count.into_inner().count, 2);
}

/// SPIRE's `entry show` sends `by_downstream: false` with every filter, and its server takes that for no question.
#[tokio::test]
async fn who_does_not_ask_for_downstream_entries_gets_them_too() {
    let server = server().await;
    let mut client = client(&server).await;
    let below = types::Entry {
        downstream: true,
        ..entry(&id("/node"), "/below", 2)
    };
    create(&mut client, vec![good(), below]).await;
    for (by_downstream, count) in [(None, 2), (Some(false), 2), (Some(true), 1)] {
        let filter = Some(list_entries_request::Filter {
            by_downstream,
            ..list_entries_request::Filter::default()
        });
        let asked = ListEntriesRequest {
            filter,
            ..ListEntriesRequest::default()
        };
        let listed = client.list_entries(asked).await.unwrap().into_inner().entries;
        assert_eq!(listed.len(), count, "{by_downstream:?}");
        let filter = Some(count_entries_request::Filter {
            by_downstream,
            ..count_entries_request::Filter::default()
        });
        let counted = client
            .count_entries(CountEntriesRequest { filter })
            .await
            .unwrap();
        assert_eq!(counted.into_inner().count, i32::try_from(count).unwrap());
    }
}

#[tokio::test]
async fn entries_on_asserted_selectors_alone_are_treated_as_configured() {
    let asserted = types::Entry {
        selectors: vec![selector("process", "script:/a.py")],
        ..good()
    };
    for (policy, code) in [
        ("allow", Code::Ok),
        ("warn", Code::Ok),
        ("refuse", Code::InvalidArgument),
    ] {
        let server = server_with(&format!("asserted_entries = \"{policy}\"")).await;
        let mut client = client(&server).await;
        assert_eq!(
            create(&mut client, vec![asserted.clone()]).await[0].0,
            code,
            "{policy}"
        );
        let mut both = asserted.clone();
        both.selectors.push(selector("unix", "uid:1"));
        assert_eq!(create(&mut client, vec![both]).await[0].0, Code::Ok, "{policy}");
    }
}

#[tokio::test]
async fn an_entry_that_has_ended_gives_nothing() {
    let server = server().await;
    let mut client = client(&server).await;
    let mut short = good();
    short.expires_at = START + 60;
    create(&mut client, vec![short]).await;
    let agent = server.agent().await;
    let mut as_agent = EntryClient::new(server.tls(Some(&agent)).await);
    server.clock.jump(time::Duration::seconds(61));
    let got = as_agent
        .get_authorized_entries(GetAuthorizedEntriesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(got.entries.is_empty());
}
