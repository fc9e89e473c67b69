//! FetchJWTSVID and ValidateJWTSVID.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde_json::Value as Json;
use tonic::{Code, Status};
use vouchsafe_identity::{SpiffeId, jwt};
use vouchsafe_proto::workload::{
    JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest, ValidateJwtsvidResponse,
};

use super::{Matched, PATIENCE, Parts, revoked};
use crate::cache::Shelf;
use crate::cache::jwt::{Cached, JwtContext, JwtKey, JwtSvid};
use crate::caller::Caller;
use crate::entry::Entry;
use crate::upstream::UpstreamError;

/// Most audiences of one token.
pub const MAX_AUDIENCES: usize = 32;
/// Longest audience in bytes.
pub const MAX_AUDIENCE_BYTES: usize = 2048;
/// Claims of a token of a foreign trust domain that a workload gets to see; what others mean by the rest is theirs.
const FOREIGN_CLAIMS: [&str; 3] = ["sub", "exp", "aud"];
/// How long a caller waits for a newer token when there is one that is still valid.
pub const REFRESH_PATIENCE: Duration = Duration::from_secs(1);
/// How long the server is not asked again for a token that it could not give.
pub const REFRESH_PAUSE: Duration = Duration::from_secs(5);

/// The caller's JWT-SVIDs for an audience.
///
/// # Errors
/// The status for the caller.
pub async fn fetch(
    parts: &Parts,
    caller: &mut Caller,
    request: JwtsvidRequest,
) -> Result<JwtsvidResponse, Status> {
    let audience = audience(request.audience)?;
    let wanted = wanted(&request.spiffe_id)?;
    let Matched { entries, .. } = parts.matched(caller, wanted.as_ref()).await?;
    let caller = &*caller;
    let fetched = entries.iter().map(|entry| one(parts, caller, entry, &audience));
    let tokens = try_join_all(fetched).await?;
    let svids = entries
        .iter()
        .zip(tokens)
        .map(|(entry, svid)| vouchsafe_proto::workload::Jwtsvid {
            spiffe_id: svid.spiffe_id.to_string(),
            svid: svid.token.expose().clone(),
            hint: entry.hint.clone(),
        })
        .collect();
    Ok(JwtsvidResponse { svids })
}

/// One token: from the cache in the first half of its life, else from the server; a cached one that is still valid
/// serves while the server is slow or away.
async fn one(
    parts: &Parts,
    caller: &Caller,
    entry: &Entry,
    audience: &[String],
) -> Result<Arc<JwtSvid>, Status> {
    let shelf = parts.shelf(caller);
    let key = JwtKey {
        process: caller.process(),
        entry: entry.id.clone(),
        audience: audience.to_vec(),
    };
    let context = JwtContext {
        fingerprint: caller.fingerprint.clone(),
        version: entry.version,
    };
    let cached = match entry.single_jwt {
        true => Cached::Missing,
        false => shelf.jwt.look(&key, &context, parts.clock.now()),
    };
    if let Cached::Fresh(svid) = cached {
        return Ok(svid);
    }
    let patience = match cached {
        Cached::Aged(_) => REFRESH_PATIENCE,
        _ => PATIENCE,
    };
    match issue_within(shelf, entry, audience, patience).await {
        Ok(svid) => {
            let svid = Arc::new(svid);
            tracing::info!(entry_id = %entry.id, spiffe_id = %svid.spiffe_id, expires_at = %svid.lifetime.not_after, "JWT-SVID issued");
            if !entry.single_jwt {
                let now = parts.clock.now();
                shelf
                    .jwt
                    .keep(key, context, Arc::clone(&svid), now, parts.clock.jitter());
            }
            Ok(svid)
        }
        Err(error) => match cached {
            Cached::Aged(svid) if error.is_temporary() => {
                tracing::warn!(entry_id = %entry.id, %error, "no new JWT-SVID: the cached one is served");
                shelf.jwt.defer(&key, parts.clock.now() + REFRESH_PAUSE);
                // It may have ended while the server was waited for.
                match svid.lifetime.is_over(parts.clock.now()) {
                    false => Ok(svid),
                    true => Err(refused(entry, &error)),
                }
            }
            _ => Err(refused(entry, &error)),
        },
    }
}

/// A new token, if the server gives one within this time.
async fn issue_within(
    shelf: &Shelf,
    entry: &Entry,
    audience: &[String],
    patience: Duration,
) -> Result<JwtSvid, UpstreamError> {
    let asked = issue(shelf, entry, audience);
    match tokio::time::timeout(patience, asked).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(UpstreamError::Unavailable(format!(
            "it did not answer within {} s",
            patience.as_secs()
        ))),
    }
}

/// A new token. One whose signer was tainted while it was on its way is asked for once more.
async fn issue(shelf: &Shelf, entry: &Entry, audience: &[String]) -> Result<JwtSvid, UpstreamError> {
    let mut again = true;
    loop {
        let issued = shelf.authority.issue_jwt(&entry.id, audience).await?;
        let claims = jwt::peek_unverified(issued.token.expose());
        let key_id = claims.ok().and_then(|claims| claims.key_id);
        if !(again && shelf.jwt.distrusts(key_id.as_deref())) {
            return Ok(JwtSvid {
                token: issued.token,
                spiffe_id: issued.spiffe_id.unwrap_or_else(|| entry.spiffe_id.clone()),
                key_id,
                lifetime: issued.lifetime,
            });
        }
        again = false;
    }
}

/// What the caller learns of a failure. Why the server failed is for the log.
fn refused(entry: &Entry, error: &UpstreamError) -> Status {
    tracing::warn!(entry_id = %entry.id, %error, "no JWT-SVID for this entry");
    match error {
        UpstreamError::Rejected {
            code: Code::Unimplemented,
            ..
        } => Status::unimplemented("the server does not issue JWT-SVIDs"),
        UpstreamError::Rejected {
            code: Code::InvalidArgument,
            message,
        } => Status::invalid_argument(message),
        error if error.is_temporary() && entry.single_jwt => Status::unavailable(
            "server unreachable: JWT-SVIDs of this entry are for a single use, so none is served from the cache: try \
             again when the server is back",
        ),
        error if error.is_temporary() => Status::unavailable(
            "server unreachable: no valid JWT-SVID for this audience is cached for this process: try again when the \
             server is back",
        ),
        _ => Status::unavailable("the agent could not get a JWT-SVID from its server: see the agent's log"),
    }
}

/// The audiences: sorted, none twice, none empty.
fn audience(mut audience: Vec<String>) -> Result<Vec<String>, Status> {
    if audience.is_empty() || audience.iter().any(String::is_empty) {
        return Err(Status::invalid_argument("audience must be specified"));
    }
    if audience.len() > MAX_AUDIENCES {
        return Err(Status::invalid_argument(format!(
            "{} audiences are more than the limit of {MAX_AUDIENCES}",
            audience.len()
        )));
    }
    if audience.iter().any(|one| one.len() > MAX_AUDIENCE_BYTES) {
        return Err(Status::invalid_argument(format!(
            "an audience is longer than the limit of {MAX_AUDIENCE_BYTES} bytes"
        )));
    }
    audience.sort_unstable();
    audience.dedup();
    Ok(audience)
}

fn wanted(spiffe_id: &str) -> Result<Option<SpiffeId>, Status> {
    match spiffe_id {
        "" => Ok(None),
        text => SpiffeId::new(text)
            .map(Some)
            .map_err(|e| Status::invalid_argument(format!("invalid requested SPIFFE ID: {e}"))),
    }
}

/// Checks a token for the caller, by its own bundle and those that its entries federate with, and by the revocations of runs.
///
/// # Errors
/// The status for the caller.
pub async fn validate(
    parts: &Parts,
    caller: &mut Caller,
    request: ValidateJwtsvidRequest,
) -> Result<ValidateJwtsvidResponse, Status> {
    if request.audience.is_empty() {
        return Err(Status::invalid_argument("audience must be specified"));
    }
    if request.svid.is_empty() {
        return Err(Status::invalid_argument("svid must be specified"));
    }
    let Matched { known, entries } = parts.matched(caller, None).await?;
    let federated = known.federated(&entries);
    let bundle_of = |trust_domain: &vouchsafe_identity::TrustDomain| {
        if *trust_domain == known.trust_domain {
            return known.own_bundle().map(AsRef::as_ref);
        }
        federated.get(trust_domain).map(|bundle| bundle.as_ref())
    };
    let verified = jwt::verify_svid(&request.svid, &request.audience, bundle_of, parts.clock.now())
        .map_err(|e| Status::invalid_argument(e.to_string()))?;
    revoked::check(&known, &parts.runs, &verified)?;
    let foreign = !verified.spiffe_id.is_member_of(&known.trust_domain);
    Ok(ValidateJwtsvidResponse {
        spiffe_id: verified.spiffe_id.to_string(),
        claims: Some(claims(verified.claims, foreign)),
    })
}

/// The claims of a token as a protobuf value; `aud` is always a list.
fn claims(claims: serde_json::Map<String, Json>, foreign: bool) -> Struct {
    let fields = claims
        .into_iter()
        .filter(|(name, _)| !foreign || FOREIGN_CLAIMS.contains(&name.as_str()))
        .map(|(name, claim)| {
            let claim = match claim {
                Json::String(one) if name == "aud" => Json::Array(vec![Json::String(one)]),
                other => other,
            };
            (name, value(claim))
        })
        .collect();
    Struct { fields }
}

fn value(json: Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(value),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(values) => Kind::ListValue(ListValue {
            values: values.into_iter().map(value).collect(),
        }),
        Json::Object(fields) => Kind::StructValue(Struct {
            fields: fields
                .into_iter()
                .map(|(name, json)| (name, value(json)))
                .collect(),
        }),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn an_audience_must_be_named() {
        for wrong in [&[][..], &[""], &["a", ""]] {
            assert_eq!(audience(texts(wrong)).unwrap_err().code(), Code::InvalidArgument);
        }
        let many: Vec<String> = (0..=MAX_AUDIENCES).map(|n| n.to_string()).collect();
        assert_eq!(audience(many).unwrap_err().code(), Code::InvalidArgument);
        let long = vec!["a".repeat(MAX_AUDIENCE_BYTES + 1)];
        assert_eq!(audience(long).unwrap_err().code(), Code::InvalidArgument);
    }

    #[test]
    fn audiences_in_any_order_are_the_same() {
        assert_eq!(audience(texts(&["b", "a", "b"])).unwrap(), ["a", "b"]);
    }

    #[test]
    fn what_is_no_spiffe_id_is_not_asked_for() {
        assert_eq!(wanted("spiffe://").unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(wanted("").unwrap(), None);
    }

    #[test]
    fn one_audience_is_a_list_and_foreign_claims_are_withheld() {
        let Json::Object(token) =
            serde_json::json!({"aud": "a", "sub": "s", "exp": 5, "role": {"x": [null]}})
        else {
            panic!("an object");
        };
        let own = claims(token.clone(), false);
        assert!(matches!(own.fields["aud"].kind, Some(Kind::ListValue(_))));
        assert_eq!(own.fields["exp"].kind, Some(Kind::NumberValue(5.0)));
        assert!(own.fields.contains_key("role"));
        let foreign = claims(token, true);
        assert_eq!(foreign.fields.len(), 3);
        assert!(!foreign.fields.contains_key("role"));
    }
}
