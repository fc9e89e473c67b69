//! `Debug` of the messages that carry a key or a token: everything but the secret, of which it tells the length.
//!
//! `build.rs` lists the same messages and keeps the derived `Debug` away from them.

use std::fmt::{Debug, Formatter, Result};

use crate::spire::api::server::agent::v1::{
    AttestAgentRequest, CreateJoinTokenRequest, attest_agent_request,
};
use crate::spire::api::types::{AttestationData, JoinToken, Jwtsvid, Witsvid};
use crate::vouchsafe::launch::v1::LaunchRequest;
use crate::vouchsafe::run::v1::NewRunJwtsvidResponse;
use crate::vouchsafe::server::v1::BackupRequest;
use crate::workload;

/// Stands for a secret of so many bytes.
struct Hidden(usize);

impl Hidden {
    fn of(secret: impl AsRef<[u8]>) -> Self {
        Self(secret.as_ref().len())
    }
}

fn hidden(secrets: &[Vec<u8>]) -> Vec<Hidden> {
    secrets.iter().map(Hidden::of).collect()
}

impl Debug for Hidden {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "<{} bytes hidden>", self.0)
    }
}

impl Debug for LaunchRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("LaunchRequest")
            .field("class", &self.class)
            .field("task", &self.task)
            .field("labels", &self.labels)
            // API keys stand in both.
            .field("arguments", &hidden(&self.arguments))
            .field("environment", &hidden(&self.environment))
            .field("working_directory", &self.working_directory)
            .field("detached", &self.detached)
            .field("terminal", &self.terminal)
            .finish()
    }
}

impl Debug for workload::X509svid {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("X509svid")
            .field("spiffe_id", &self.spiffe_id)
            .field("x509_svid", &self.x509_svid)
            .field("x509_svid_key", &Hidden::of(&self.x509_svid_key))
            .field("bundle", &self.bundle)
            .field("hint", &self.hint)
            .finish()
    }
}

impl Debug for workload::Jwtsvid {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("Jwtsvid")
            .field("spiffe_id", &self.spiffe_id)
            .field("svid", &Hidden::of(&self.svid))
            .field("hint", &self.hint)
            .finish()
    }
}

impl Debug for workload::Witsvid {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("Witsvid")
            .field("spiffe_id", &self.spiffe_id)
            .field("wit_svid", &Hidden::of(&self.wit_svid))
            .field("wit_svid_key", &Hidden::of(&self.wit_svid_key))
            .field("hint", &self.hint)
            .finish()
    }
}

impl Debug for workload::ValidateJwtsvidRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("ValidateJwtsvidRequest")
            .field("audience", &self.audience)
            .field("svid", &Hidden::of(&self.svid))
            .finish()
    }
}

impl Debug for AttestationData {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("AttestationData")
            .field("type", &self.r#type)
            .field("payload", &Hidden::of(&self.payload))
            .finish()
    }
}

impl Debug for JoinToken {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("JoinToken")
            .field("value", &Hidden::of(&self.value))
            .field("expires_at", &self.expires_at)
            .finish()
    }
}

impl Debug for Jwtsvid {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("Jwtsvid")
            .field("token", &Hidden::of(&self.token))
            .field("id", &self.id)
            .field("expires_at", &self.expires_at)
            .field("issued_at", &self.issued_at)
            .field("hint", &self.hint)
            .finish()
    }
}

impl Debug for Witsvid {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("Witsvid")
            .field("token", &Hidden::of(&self.token))
            .field("id", &self.id)
            .field("expires_at", &self.expires_at)
            .field("issued_at", &self.issued_at)
            .field("hint", &self.hint)
            .finish()
    }
}

impl Debug for CreateJoinTokenRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("CreateJoinTokenRequest")
            .field("ttl", &self.ttl)
            .field("token", &Hidden::of(&self.token))
            .field("agent_id", &self.agent_id)
            .finish()
    }
}

impl Debug for AttestAgentRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("AttestAgentRequest")
            .field("step", &self.step)
            .finish()
    }
}

impl Debug for NewRunJwtsvidResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("NewRunJwtsvidResponse")
            .field("spiffe_id", &self.spiffe_id)
            .field("token", &Hidden::of(&self.token))
            .field("issued_at", &self.issued_at)
            .field("expires_at", &self.expires_at)
            .finish()
    }
}

impl Debug for BackupRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("BackupRequest")
            .field("seal_secret", &Hidden::of(&self.seal_secret))
            .finish()
    }
}

impl Debug for attest_agent_request::Params {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("Params")
            .field("data", &self.data)
            .field("params", &self.params)
            .finish()
    }
}

impl Debug for attest_agent_request::Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Params(params) => f.debug_tuple("Params").field(params).finish(),
            Self::ChallengeResponse(answer) => f
                .debug_tuple("ChallengeResponse")
                .field(&Hidden::of(answer))
                .finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "do-not-log-me";

    fn assert_hidden(message: &dyn Debug) {
        for shown in [format!("{message:?}"), format!("{message:#?}")] {
            assert!(!shown.contains(SECRET), "shows the secret as text: {shown}");
            assert!(
                !shown.replace(char::is_whitespace, "").contains("100,111,45"),
                "shows its bytes: {shown}"
            );
            assert!(
                shown.contains("13 bytes hidden"),
                "does not say what is hidden: {shown}"
            );
        }
    }

    #[test]
    fn debug_shows_no_key_and_no_token() {
        let text = || SECRET.to_owned();
        let bytes = || SECRET.as_bytes().to_vec();
        let data = AttestationData {
            r#type: "join_token".to_owned(),
            payload: bytes(),
        };

        let x509 = workload::X509svid {
            x509_svid_key: bytes(),
            ..Default::default()
        };
        assert_hidden(&workload::X509svidResponse {
            svids: vec![x509],
            ..Default::default()
        });
        assert_hidden(&workload::Jwtsvid {
            svid: text(),
            ..Default::default()
        });
        let wit = workload::Witsvid {
            wit_svid: text(),
            wit_svid_key: text(),
            ..Default::default()
        };
        assert_hidden(&wit);
        assert_hidden(&workload::ValidateJwtsvidRequest {
            svid: text(),
            ..Default::default()
        });
        assert_hidden(&JoinToken {
            value: text(),
            expires_at: 1,
        });
        assert_hidden(&Jwtsvid {
            token: text(),
            ..Default::default()
        });
        assert_hidden(&Witsvid {
            token: text(),
            ..Default::default()
        });
        assert_hidden(&CreateJoinTokenRequest {
            token: text(),
            ..Default::default()
        });
        assert_hidden(&NewRunJwtsvidResponse {
            token: text(),
            ..Default::default()
        });
        assert_hidden(&LaunchRequest {
            arguments: vec![bytes()],
            environment: vec![bytes()],
            ..Default::default()
        });
        assert_hidden(&BackupRequest { seal_secret: bytes() });
        let params = attest_agent_request::Params {
            data: Some(data),
            params: None,
        };
        let step = attest_agent_request::Step::Params(params);
        assert_hidden(&AttestAgentRequest { step: Some(step) });
        assert_hidden(&attest_agent_request::Step::ChallengeResponse(bytes()));
    }
}
