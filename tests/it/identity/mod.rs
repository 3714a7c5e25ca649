//! Who is asking: tokens, the policy, and every way to show who one is.

mod attacks;
mod audit;
mod certificates;
mod clients;
mod clusters;
mod oidc;
mod routes;
mod rules;
mod scenes;
mod times;
mod tokens;
mod uploads;
