//! What holds for any messages that a server may send on the stream of changes: they are refused, or the agent knows just
//! what was told up to the last resume point, and stands there only with a set of the same digest.

use std::collections::BTreeMap;

use prost::Message;
use vouchsafe_agent::knowledge::{Knowledge, KnowledgeBase};
use vouchsafe_agent::sync::push::protocol::{
    Following, Heard, RUNS, class_digest, revocation_digest, run_digest,
};
use vouchsafe_agent::upstream::convert;
use vouchsafe_identity::{Bundle, TrustDomain};
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::vouchsafe::run::v1::{Class, Revocation};
use vouchsafe_proto::vouchsafe::sync::v1::authority_taint::Authority;
use vouchsafe_proto::vouchsafe::sync::v1::change::Kind;
use vouchsafe_proto::vouchsafe::sync::v1::follow_request::Message as Request;
use vouchsafe_proto::vouchsafe::sync::v1::follow_response::Message as Response;
use vouchsafe_proto::vouchsafe::sync::v1::{AuthorityTaint, FollowResponse, LiveRun, ResumePoint};
use vouchsafe_runtime::set_digest::{ItemDigest, SetDigest};

/// Whose agent listens.
pub(crate) const TRUST_DOMAIN: &str = "example.org";

/// What was told, kept in the simplest way.
#[derive(Debug, Clone, Default)]
struct Told {
    entries: BTreeMap<String, types::Entry>,
    bundles: BTreeMap<TrustDomain, Bundle>,
    classes: BTreeMap<String, Class>,
    runs: BTreeMap<String, LiveRun>,
    revoked: BTreeMap<String, Revocation>,
}

impl Told {
    fn entry(&mut self, entry: types::Entry) {
        self.entries.insert(entry.id.clone(), entry);
    }

    fn bundle(&mut self, bundle: types::Bundle) {
        if let Ok(bundle) = convert::bundle(bundle) {
            self.bundles.insert(bundle.trust_domain.clone(), bundle);
        }
    }

    fn class(&mut self, class: Class) {
        self.classes.insert(class.name.clone(), class);
    }

    fn run(&mut self, run: LiveRun) {
        self.runs.insert(run.run_id.clone(), run);
    }

    fn revocation(&mut self, revocation: Revocation) {
        self.revoked.insert(revocation.run_id.clone(), revocation);
    }

    fn change(&mut self, kind: Option<Kind>, runs: bool) {
        match kind {
            Some(Kind::ClassPut(class)) if runs => self.class(*class),
            Some(Kind::ClassGone(name)) if runs => drop(self.classes.remove(&name)),
            Some(Kind::RunPut(run)) if runs => self.run(run),
            Some(Kind::RunGone(gone)) if runs => drop(self.runs.remove(&gone.run_id)),
            Some(Kind::RevocationPut(one)) if runs => self.revocation(one),
            Some(Kind::RevocationGone(id)) if runs => drop(self.revoked.remove(&id)),
            Some(Kind::EntryPut(entry)) => self.entry(entry),
            Some(Kind::EntryGone(id)) => drop(self.entries.remove(&id)),
            Some(Kind::BundlePut(bundle)) => self.bundle(bundle),
            Some(Kind::BundleGone(name)) => {
                let domain = TrustDomain::new(&name).ok();
                self.bundles.retain(|held, _| Some(held) != domain.as_ref());
            }
            Some(Kind::AuthorityTaint(taint)) => self.taint(&taint),
            Some(Kind::ClassPut(_) | Kind::ClassGone(_) | Kind::RunPut(_) | Kind::RunGone(_))
            | Some(Kind::RevocationPut(_) | Kind::RevocationGone(_))
            | None => {}
        }
    }

    fn taint(&mut self, taint: &AuthorityTaint) {
        let domain = TrustDomain::new(&taint.trust_domain).ok();
        let Some(bundle) = domain.and_then(|domain| self.bundles.get_mut(&domain)) else {
            return;
        };
        bundle.sequence = taint.sequence_number;
        match &taint.authority {
            Some(Authority::X509Sha256(hash)) => {
                for one in &mut bundle.x509_authorities {
                    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &one.certificate);
                    one.tainted |= digest.as_ref() == hash.as_slice();
                }
            }
            Some(Authority::JwtKeyId(key_id)) => {
                for one in &mut bundle.jwt_authorities {
                    one.tainted |= one.key_id == *key_id;
                }
            }
            None => {}
        }
    }

    fn digest(&self) -> SetDigest {
        let entries = self.entries.values();
        let entries = entries.map(|one| ItemDigest::of_entry(&one.id, one.revision_number, one.created_at));
        entries
            .chain(self.bundles.values().map(ItemDigest::of_bundle))
            .chain(self.classes.values().map(class_digest))
            .chain(self.runs.values().map(run_digest))
            .chain(self.revoked.values().map(revocation_digest))
            .collect()
    }

    /// What is known is what was told, without the entries that cannot be used.
    fn assert_known(&self, known: &Knowledge) {
        let usable = self.entries.values().filter_map(|entry| {
            let entry = convert::entry_of(entry.clone(), &known.trust_domain).ok()?;
            Some((entry.id.clone(), entry))
        });
        let usable: BTreeMap<_, _> = usable.collect();
        let held = known
            .entries
            .iter()
            .map(|entry| (entry.id.clone(), (**entry).clone()));
        assert_eq!(held.collect::<BTreeMap<_, _>>(), usable);
        let bundles = known
            .bundles
            .iter()
            .map(|(domain, bundle)| (domain.clone(), (**bundle).clone()));
        assert_eq!(bundles.collect::<BTreeMap<_, _>>(), self.bundles);
        assert!(
            known
                .classes
                .values()
                .map(AsRef::as_ref)
                .eq(self.classes.values())
        );
        assert!(known.runs.values().map(AsRef::as_ref).eq(self.runs.values()));
        assert!(
            known
                .revoked
                .values()
                .map(AsRef::as_ref)
                .eq(self.revoked.values())
        );
    }
}

/// A server that may say anything, and the agent that listens.
struct Stream {
    base: KnowledgeBase,
    following: Following,
    /// What was told up to the last resume point, and after it.
    held: Told,
    next: Told,
    asked: bool,
    /// Whether classes and runs are spoken of.
    runs: bool,
}

impl Stream {
    fn open(base: KnowledgeBase, held: Told) -> Self {
        let (following, hello) = Following::begin(&base.get());
        let hello = match hello.message {
            Some(Request::Hello(hello)) => hello,
            other => panic!("{other:?} instead of hello"),
        };
        assert_eq!(hello.resume.is_some(), base.get().resume.is_some());
        Self {
            base,
            following,
            next: held.clone(),
            held,
            asked: false,
            runs: false,
        }
    }

    /// Notes what a message tells; gives the digest of the set where a resume point has none.
    fn tell(&mut self, message: &mut FollowResponse) -> bool {
        let resume = match &mut message.message {
            Some(Response::Welcome(welcome)) => {
                self.begin(welcome.full_reason);
                self.runs = welcome.features.iter().any(|feature| feature == RUNS);
                if !self.runs {
                    self.next.classes.clear();
                    self.next.runs.clear();
                    self.next.revoked.clear();
                }
                return false;
            }
            Some(Response::Page(page)) => {
                self.begin(page.full_reason);
                page.entries.iter().cloned().for_each(|one| self.next.entry(one));
                page.bundles.iter().cloned().for_each(|one| self.next.bundle(one));
                if self.runs {
                    page.classes.iter().cloned().for_each(|one| self.next.class(one));
                    page.runs.iter().cloned().for_each(|one| self.next.run(one));
                    let revoked = page.revocations.iter().cloned();
                    revoked.for_each(|one| self.next.revocation(one));
                }
                &mut page.resume
            }
            Some(Response::Delta(delta)) => {
                delta
                    .changes
                    .iter()
                    .cloned()
                    .for_each(|one| self.next.change(one.kind, self.runs));
                &mut delta.resume
            }
            None => return false,
        };
        let Some(ResumePoint { digest, .. }) = resume else {
            return false;
        };
        if digest.is_empty() {
            *digest = self.next.digest().as_bytes().to_vec();
        }
        true
    }

    /// A whole set begins where there is a reason for it.
    fn begin(&mut self, reason: i32) {
        if reason != 0 {
            self.next = Told::default();
        }
    }

    /// Takes one message; false when the stream is over.
    fn take(&mut self, mut message: FollowResponse) -> bool {
        let complete = self.tell(&mut message);
        let known = self.base.get();
        let Ok(Heard { news, reply, fault }) = self.following.hear(message, &known) else {
            return false;
        };
        assert_eq!(
            news.is_some(),
            complete,
            "news come with resume points, and only with them"
        );
        assert!(
            reply.is_none() || (fault.is_none() && !self.asked),
            "asked twice, or asked and ended"
        );
        let Some(news) = news else {
            return fault.is_none();
        };
        assert!(!news.is_agreed() || (reply.is_none() && fault.is_none()));
        self.asked |= reply.is_some();
        self.base.learn(news);
        self.held = self.next.clone();
        self.check();
        fault.is_none()
    }

    fn check(&mut self) {
        let known = self.base.get();
        self.held.assert_known(&known);
        assert!(known.complete && known.own_bundle().is_some());
        if let Some(resume) = &known.resume {
            assert_eq!(
                resume.digest,
                self.held.digest(),
                "stands where its set is another one"
            );
            self.asked = false;
            let unusable = self.held.entries.len() - known.entries.len();
            assert_eq!(resume.unusable.len(), unusable);
        }
    }
}

/// Messages, each with its length before it, as those of two streams after each other: an empty message cuts the first.
pub(crate) fn check(mut data: &[u8]) {
    let own = TrustDomain::new(TRUST_DOMAIN).expect("it is one");
    let mut stream = Stream::open(KnowledgeBase::new(own, None), Told::default());
    let mut cut = false;
    while let Ok(message) = FollowResponse::decode_length_delimited(&mut data) {
        let on = stream.take(message.clone());
        if (!on || message.message.is_none()) && !cut {
            cut = true;
            stream = Stream::open(stream.base, stream.held);
        } else if !on {
            return;
        }
    }
}
