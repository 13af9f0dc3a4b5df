//! HTTP/1.1 and HTTP/1.0 on one worker's connections.

mod request;
mod response;

pub use request::Request;
pub use response::{Refused, Response};
