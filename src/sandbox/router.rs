//! All paths that the sandbox answers.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::routing::{MethodRouter, get, post};

use super::operation::{Operation, handle};
use super::server::Cut;
use super::world::World;
use super::{admin, failed, inbound, voice};

pub(super) fn router(world: Arc<World>) -> Router {
    Router::new()
        .route("/openapi/oauth/v1/token", operation(Operation::Token))
        .route("/openapi/config/v1/query", operation(Operation::Config))
        .route(
            "/openapi/outbound/v1/task/callout",
            operation(Operation::CallOut),
        )
        .route(
            "/openapi/outbound/v1/task/create",
            operation(Operation::Create),
        )
        .route(
            "/openapi/outbound/v1/task/insert",
            operation(Operation::Insert),
        )
        .route(
            "/openapi/outbound/v1/task/start",
            operation(Operation::Start),
        )
        .route(
            "/openapi/outbound/v1/task/pause",
            operation(Operation::Pause),
        )
        .route(
            "/openapi/outbound/v1/task/delete",
            operation(Operation::Delete),
        )
        .route(
            "/openapi/outbound/v1/task/query",
            operation(Operation::Query),
        )
        .route(
            "/openapi/download/v1/push/failed",
            operation(Operation::Failed),
        )
        .route("/push_download/{*path}", get(failed::serve))
        .route("/voice/{*path}", get(voice::serve))
        .route("/sandbox", get(admin::index))
        .route(
            "/sandbox/faults",
            get(admin::faults)
                .post(admin::add_faults)
                .delete(admin::clear_faults),
        )
        .route("/sandbox/requests", get(admin::requests))
        .route("/sandbox/rows", get(admin::rows))
        .route("/sandbox/tokens", get(admin::tokens))
        .route("/sandbox/tokens/expire", post(admin::expire_tokens))
        .route("/sandbox/pushes", get(admin::pushes))
        .route("/sandbox/pushes/failed", get(admin::failed_pushes))
        .route("/sandbox/push", post(admin::push))
        .route(
            "/sandbox/quirks",
            get(admin::quirks).post(admin::push_quirks),
        )
        .route("/sandbox/inbound", get(inbound::list).post(inbound::play))
        .route(
            "/sandbox/recordings",
            get(admin::recordings).post(admin::add_recording),
        )
        .route("/sandbox/balance", post(admin::balance))
        .route("/sandbox/calendar", post(admin::calendar))
        .route("/sandbox/reset", post(admin::reset))
        .with_state(world)
}

fn operation(operation: Operation) -> MethodRouter<Arc<World>> {
    post(
        move |State(world): State<Arc<World>>, Extension(cut): Extension<Cut>, request: Request| {
            handle(operation, world, cut, request)
        },
    )
}
