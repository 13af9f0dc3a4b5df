//! HTTP/1.1 and HTTP/1.0 on one worker's connections.

mod request;
mod response;

pub use request::Request;
pub use response::{Refused, Response};
pub struct HttpConn;
impl Default for HttpConn {
    fn default() -> Self {
        HttpConn
    }
}
pub struct HttpEngine;
use super::engine::{Context, Next};
use crate::Config;
use std::os::fd::BorrowedFd;
impl HttpEngine {
    pub fn new(_: &Config) -> Self {
        Self
    }
    pub fn on_readable(
        &mut self,
        _: BorrowedFd<'_>,
        _: u16,
        _: &mut HttpConn,
        _: bool,
        _: &mut Context<'_>,
    ) -> Next {
        Next::Close
    }
    pub fn on_writable(&mut self, _: BorrowedFd<'_>, _: u16, _: &mut HttpConn, _: &mut Context<'_>) -> Next {
        Next::Close
    }
    pub fn on_deadline(&mut self, _: BorrowedFd<'_>, _: &mut HttpConn, _: &mut Context<'_>) -> Next {
        Next::Close
    }
    pub fn on_drain(&mut self, _: BorrowedFd<'_>, _: &mut HttpConn, _: &mut Context<'_>) -> Next {
        Next::Close
    }
    pub fn on_gone(&mut self, _: &mut HttpConn) {}
}
