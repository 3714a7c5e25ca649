//! Who is asking: tokens, the policy, and every way to show who one is.

mod attacks;
mod certificates;
mod clients;
mod clusters;
mod oidc;
mod routes;
mod scenes;
mod times;
mod tokens;
mod uploads;
