//! `vouchsafe run revoked`: the SVIDs of which ended runs are not to be believed any more.

use serde::Serialize;
use vouchsafe_proto::vouchsafe::run::v1::{ListRevocationsRequest, Revocation};

use super::{PAGE, client};
use crate::client::Connection;
use crate::error::CliError;
use crate::output::{self, Output};
use crate::values;

const HEAD: [&str; 5] = ["SPIFFE ID", "REVOKED", "UNTIL", "X.509-SVIDS", "JWT-SVIDS"];

/// A revocation as it is shown.
#[derive(Debug, Serialize)]
struct View {
    run_id: String,
    spiffe_id: String,
    revoked_at: String,
    until: String,
    x509_serials: Vec<String>,
    jwt_ids: Vec<String>,
}

impl From<Revocation> for View {
    fn from(revocation: Revocation) -> Self {
        Self {
            run_id: revocation.run_id,
            spiffe_id: revocation.spiffe_id,
            revoked_at: values::show_time(revocation.revoked_at),
            until: values::show_time(revocation.until),
            x509_serials: revocation.x509_serials,
            jwt_ids: revocation.jwt_ids,
        }
    }
}

impl View {
    fn row(&self) -> Vec<String> {
        vec![
            self.spiffe_id.clone(),
            self.revoked_at.clone(),
            self.until.clone(),
            self.x509_serials.len().to_string(),
            self.jwt_ids.len().to_string(),
        ]
    }
}

pub(super) async fn list(server: &Connection, output: &Output) -> Result<(), CliError> {
    let mut views: Vec<View> = Vec::new();
    let mut request = ListRevocationsRequest {
        page_size: PAGE,
        page_token: String::new(),
    };
    loop {
        let page = server
            .call(client(server).list_revocations(request.clone()))
            .await?;
        views.extend(page.revocations.into_iter().map(View::from));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    output.show(&views, || match views.as_slice() {
        [] => "No SVIDs of runs are revoked".to_owned(),
        some => output::table(&HEAD, some.iter().map(View::row).collect()),
    });
    Ok(())
}
