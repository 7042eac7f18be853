//! admin.v1: nodes, queues, and what the scheduler itself is.

use gangsaw_core::effect::Reply;
use gangsaw_core::id::{NodeName, QueueName, Tenant, TokenId};
use gangsaw_core::input::{Change, Input};
use gangsaw_core::time::Millis;
use gangsaw_proto::admin::v1 as wire;
use gangsaw_proto::admin::v1::admin_service_server::AdminService;
use tonic::{Request, Response, Status};

use super::ask::{astray, invalid};
use super::caller::{Person, person};
use super::errors::Refusal;
use super::tokens;
use crate::engine::Engine;
use crate::wire::{spec, terms, view};

/// The service.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) engine: Engine,
    /// Wall time of the start in ms.
    pub(crate) started_wall_ms: u64,
}

impl Admin {
    async fn done(&self, person: &Person, input: Input) -> Result<(), Status> {
        let Reply::Done = self.engine.ask(person.request(input)?).await? else {
            return Err(astray());
        };
        Ok(())
    }
}

fn node_name(name: &str) -> Result<NodeName, Refusal> {
    NodeName::new(name).map_err(|error| invalid("bad-name", format!("the node's name {error}")))
}

fn change(limit: Option<u64>) -> Change {
    match limit {
        None => Change::Keep,
        Some(u64::MAX) => Change::Unlimited,
        Some(limit) => Change::Set(limit),
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn list_nodes(
        &self,
        _request: Request<wire::ListNodesRequest>,
    ) -> Result<Response<wire::ListNodesResponse>, Status> {
        let nodes = self.engine.read(|view| {
            let shown =
                view.state.nodes().map(|node| view::node(view.state, node, &view.volatile(node.body.id), view.now));
            shown.collect()
        });
        Ok(Response::new(wire::ListNodesResponse { nodes: nodes.await? }))
    }

    async fn set_node(
        &self,
        request: Request<wire::SetNodeRequest>,
    ) -> Result<Response<wire::SetNodeResponse>, Status> {
        let person = person(&request)?;
        let request = request.into_inner();
        let mode = terms::mode_from(request.mode).ok_or_else(|| Refusal::missing("mode"))?;
        let evict_after = match request.evict_after.as_ref().map(spec::ms) {
            None => None,
            Some(ms) => {
                let ms =
                    u64::try_from(ms).map_err(|_| invalid("out-of-range", "evict_after is negative".to_owned()))?;
                Some(Millis(ms))
            }
        };
        let name = node_name(&request.name)?;
        let input = Input::SetNode { name, mode, reason: request.reason, evict_after };
        self.done(&person, input).await?;
        Ok(Response::new(wire::SetNodeResponse {}))
    }

    async fn forget_node(
        &self,
        request: Request<wire::ForgetNodeRequest>,
    ) -> Result<Response<wire::ForgetNodeResponse>, Status> {
        let person = person(&request)?;
        self.done(&person, Input::ForgetNode { name: node_name(&request.into_inner().name)? }).await?;
        Ok(Response::new(wire::ForgetNodeResponse {}))
    }

    async fn list_queues(
        &self,
        request: Request<wire::ListQueuesRequest>,
    ) -> Result<Response<wire::ListQueuesResponse>, Status> {
        let person = person(&request)?;
        let queues = self.engine.read(move |view| {
            let shown = view.state.queues().filter(|(key, _)| person.sees(key.tenant.as_str()));
            shown.map(|(key, queue)| view::queue(key, queue)).collect()
        });
        Ok(Response::new(wire::ListQueuesResponse { queues: queues.await? }))
    }

    async fn set_queue(
        &self,
        request: Request<wire::SetQueueRequest>,
    ) -> Result<Response<wire::SetQueueResponse>, Status> {
        let mut person = person(&request)?;
        let request = request.into_inner();
        person.mean(&request.tenant)?;
        let name =
            QueueName::new(&request.name).map_err(|error| invalid("bad-name", format!("the queue's name {error}")))?;
        let input = Input::SetQueue {
            name,
            running_max: change(request.running_max),
            queued_max: change(request.queued_max),
            gpus_max: change(request.gpus_max),
        };
        self.done(&person, input).await?;
        Ok(Response::new(wire::SetQueueResponse {}))
    }

    async fn create_token(
        &self,
        request: Request<wire::CreateTokenRequest>,
    ) -> Result<Response<wire::CreateTokenResponse>, Status> {
        let person = person(&request)?;
        Ok(Response::new(tokens::create(&self.engine, person, request.into_inner()).await?))
    }

    async fn list_tokens(
        &self,
        _request: Request<wire::ListTokensRequest>,
    ) -> Result<Response<wire::ListTokensResponse>, Status> {
        Ok(Response::new(tokens::list(&self.engine).await?))
    }

    async fn revoke_token(
        &self,
        request: Request<wire::RevokeTokenRequest>,
    ) -> Result<Response<wire::RevokeTokenResponse>, Status> {
        let person = person(&request)?;
        let token = TokenId(request.into_inner().token_id);
        self.done(&person, Input::RevokeToken { token }).await?;
        Ok(Response::new(wire::RevokeTokenResponse {}))
    }

    async fn list_tenants(
        &self,
        request: Request<wire::ListTenantsRequest>,
    ) -> Result<Response<wire::ListTenantsResponse>, Status> {
        let person = person(&request)?;
        let tenants = self.engine.read(move |view| {
            let shown = view.state.tenants().filter(|(tenant, _)| person.sees(tenant.as_str()));
            shown.map(|(tenant, held)| view::tenant(tenant, held)).collect()
        });
        Ok(Response::new(wire::ListTenantsResponse { tenants: tenants.await? }))
    }

    async fn set_tenant(
        &self,
        request: Request<wire::SetTenantRequest>,
    ) -> Result<Response<wire::SetTenantResponse>, Status> {
        let person = person(&request)?;
        let request = request.into_inner();
        let name =
            Tenant::new(&request.name).map_err(|error| invalid("bad-name", format!("the tenant's name {error}")))?;
        let input = Input::SetTenant {
            name,
            running_max: change(request.running_max),
            queued_max: change(request.queued_max),
            gpus_max: change(request.gpus_max),
        };
        self.done(&person, input).await?;
        Ok(Response::new(wire::SetTenantResponse {}))
    }

    async fn get_server(
        &self,
        _request: Request<wire::GetServerRequest>,
    ) -> Result<Response<wire::GetServerResponse>, Status> {
        let (last_seq, (disk_full, refused_inputs)) = self.engine.read(|view| (view.last_seq, view.troubles())).await?;
        Ok(Response::new(wire::GetServerResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            last_seq,
            started_at: Some(view::timestamp(self.started_wall_ms)),
            disk_full,
            refused_inputs,
        }))
    }
}
