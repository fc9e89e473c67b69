//! `vouchsafe.run.v1.Classes`.

use async_trait::async_trait;
use tonic::{Request, Response, Status};
use vouchsafe_identity::ClassId;
use vouchsafe_proto::vouchsafe::run::v1::classes_server::Classes;
use vouchsafe_proto::vouchsafe::run::v1::{
    Class, CreateClassRequest, DeleteClassRequest, DeleteClassResponse, GetClassRequest, ListClassesRequest,
    ListClassesResponse, UpdateClassRequest,
};

use super::{Api, call, refuse};
use crate::convert::{self, ConvertError, class};
use crate::usecases::classes::ClassError;

#[async_trait]
impl Classes for Api {
    async fn create_class(&self, request: Request<CreateClassRequest>) -> Result<Response<Class>, Status> {
        let call = call(&request)?;
        let CreateClassRequest { name, id, spec } = request.into_inner();
        call.fact("class", name.as_str());
        call.fact("class_id", id.as_str());
        let name = class::name(&name).map_err(refuse)?;
        let id = ClassId::new(&id).map_err(|e| refuse(ConvertError::from(e)))?;
        let spec = class::spec(spec).map_err(refuse)?;
        let made = self.classes.create(&call.origin(), name, id, spec).await;
        Ok(Response::new(class::message(&made.map_err(refuse)?, 0)))
    }

    async fn update_class(&self, request: Request<UpdateClassRequest>) -> Result<Response<Class>, Status> {
        let call = call(&request)?;
        let UpdateClassRequest { name, version, spec } = request.into_inner();
        call.fact("class", name.as_str());
        let name = class::name(&name).map_err(refuse)?;
        let spec = class::spec(spec).map_err(refuse)?;
        let updated = self.classes.update(&call.origin(), &name, version, spec).await;
        let live = self.index.live_runs(&name);
        Ok(Response::new(class::message(&updated.map_err(refuse)?, live)))
    }

    async fn get_class(&self, request: Request<GetClassRequest>) -> Result<Response<Class>, Status> {
        let name = class::name(&request.get_ref().name).map_err(refuse)?;
        let found = self.index.class(&name);
        let found = found.ok_or_else(|| refuse(ClassError::NotFound(name)))?;
        let live = self.index.live_runs(&found.value.name);
        Ok(Response::new(class::message(&found.value, live)))
    }

    async fn list_classes(
        &self,
        request: Request<ListClassesRequest>,
    ) -> Result<Response<ListClassesResponse>, Status> {
        let asked = request.get_ref();
        let size = convert::page_size(asked.page_size).map_err(refuse)?;
        let after = match asked.page_token.as_str() {
            "" => None,
            token => Some(class::name(token).map_err(|_| refuse(ConvertError::PageToken(token.to_owned())))?),
        };
        let page = self.index.classes(after.as_ref(), size);
        let last = page.rows.last().filter(|_| page.more);
        Ok(Response::new(ListClassesResponse {
            next_page_token: last.map(|row| row.value.name.to_string()).unwrap_or_default(),
            classes: page
                .rows
                .iter()
                .map(|row| class::message(&row.value, self.index.live_runs(&row.value.name)))
                .collect(),
        }))
    }

    async fn delete_class(
        &self,
        request: Request<DeleteClassRequest>,
    ) -> Result<Response<DeleteClassResponse>, Status> {
        let call = call(&request)?;
        let DeleteClassRequest { name, force } = request.into_inner();
        call.fact("class", name.as_str());
        let name = class::name(&name).map_err(refuse)?;
        let killed = self.classes.delete(&call.origin(), &name, force).await;
        let killed = u32::try_from(killed.map_err(refuse)?).unwrap_or(u32::MAX);
        call.fact("killed", killed.to_string());
        Ok(Response::new(DeleteClassResponse { killed }))
    }
}
