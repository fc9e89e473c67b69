//! The service `SpiffeWorkloadAPI`: converts, calls, converts.

use std::pin::Pin;

use futures_util::Stream;
use tonic::{Request, Response, Status};
use vouchsafe_proto::workload::spiffe_workload_api_server::SpiffeWorkloadApi;
use vouchsafe_proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse, WitsvidRequest, WitsvidResponse,
    X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
};

use super::bundles::{JwtBundles, X509Bundles};
use super::feed::{self, Topic};
use super::svids::Svids;
use super::{Parts, jwt};

/// The service.
#[derive(Debug, Clone)]
pub struct Service(pub Parts);

/// A stream of messages for one caller.
pub type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    async fn stream<R, T: Topic>(
        &self,
        request: Request<R>,
        topic: T,
    ) -> Result<Response<Messages<T::Message>>, Status> {
        let caller = self.0.caller(&request).await?;
        let stream = feed::stream(self.0.clone(), caller, topic).await;
        Ok(Response::new(Box::pin(stream)))
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = Messages<X509svidResponse>;
    type FetchX509BundlesStream = Messages<X509BundlesResponse>;
    type FetchJWTBundlesStream = Messages<JwtBundlesResponse>;
    type FetchWITSVIDStream = Messages<WitsvidResponse>;
    type FetchWITBundlesStream = Messages<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.stream(request, Svids::default()).await
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.stream(request, X509Bundles).await
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let mut caller = self.0.caller(&request).await?;
        let response = jwt::fetch(&self.0, &mut caller, request.into_inner()).await?;
        self.0.may_answer(&caller).await?;
        Ok(Response::new(response))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.stream(request, JwtBundles).await
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let mut caller = self.0.caller(&request).await?;
        let response = jwt::validate(&self.0, &mut caller, request.into_inner()).await?;
        self.0.may_answer(&caller).await?;
        Ok(Response::new(response))
    }

    async fn fetch_witsvid(
        &self,
        _request: Request<WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(no_wit())
    }

    async fn fetch_wit_bundles(
        &self,
        _request: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(no_wit())
    }
}

fn no_wit() -> Status {
    Status::unimplemented("WIT-SVIDs are not issued here")
}
