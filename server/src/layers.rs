//! The one stack that every call goes through, outermost first: metrics, source limits, audit, caller, authorize,
//! the caller's rate, size, handler. Reflection and health go through it as well.

pub mod anonymous;
mod audit;
mod authorize;
mod body;
mod call;
mod caller;
pub mod places;
mod polls;
mod rate;
pub mod rates;
mod size;
mod source;
mod step;

use std::sync::Arc;

use tokio::sync::watch;
use tower::ServiceBuilder;
use tower::layer::util::{Identity, Stack};
use vouchsafe_identity::{Bundle, SpiffeId};
use vouchsafe_runtime::Clock;
use vouchsafe_runtime::metrics::CallMeter;
use vouchsafe_store::AuditSink;

use crate::authorize::Authorizer;
use crate::config::Limits;
use crate::metrics::Metrics;

use anonymous::AnonymousCalls;
pub use audit::Audit;
pub use authorize::Authorize;
pub use call::Call;
pub use caller::FindCaller;
use places::Places;
pub use rate::CallerRate;
use rates::Rates;
pub use size::MessageSize;
pub use source::SourceLimits;
pub use step::{Handler, Next, Request, Response, Step, StepLayer, Then};

/// What the stack is made of.
#[derive(Debug, Clone)]
pub struct Layers {
    /// Tells the time of calls.
    pub clock: Clock,
    /// Takes the records of calls.
    pub audit: AuditSink,
    /// Gathers what callers without an SVID do.
    pub anonymous: Arc<AnonymousCalls>,
    /// Decides who may call what.
    pub authorizer: Authorizer,
    /// Vouches for the SVIDs of callers.
    pub bundle: watch::Receiver<Arc<Bundle>>,
    /// Counts calls and signatures.
    pub rates: Arc<Rates>,
    /// Callers with calls under way.
    pub callers: Places<SpiffeId>,
    /// How much callers may ask for.
    pub limits: Limits,
    /// Measures calls and counts refusals.
    pub metrics: Metrics,
}

/// The steps, the outermost first.
type Steps =
    Then<SourceLimits, Then<Audit, Then<FindCaller, Then<Authorize, Then<CallerRate, MessageSize>>>>>;

/// The stack as tower has it: the last one named is the outermost.
pub type CallStack = Stack<StepLayer<Steps>, Stack<CallMeter, Identity>>;

impl Layers {
    /// Puts the stack together, outermost first. This is the only place that knows its order.
    pub fn stack(&self) -> CallStack {
        let (rates, anonymous) = (Arc::clone(&self.rates), Arc::clone(&self.anonymous));
        let source = SourceLimits::new(self);
        let audit = Audit::new(self.clock.clone(), self.audit.clone(), anonymous);
        let caller = FindCaller::new(self.authorizer.clone(), self.bundle.clone());
        let authorize = Authorize::new(self.authorizer.clone());
        let rate = CallerRate::new(rates);
        let size = MessageSize::new(&self.limits, &self.metrics.refused);
        let steps = Then(
            source,
            Then(audit, Then(caller, Then(authorize, Then(rate, size)))),
        );
        ServiceBuilder::new()
            .layer(self.metrics.calls.clone())
            .layer(StepLayer::new(steps))
            .into_inner()
    }
}
