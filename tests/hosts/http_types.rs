//! A host in Rust whose handler knows the types of the crate `http` alone, for the tests.
#![allow(clippy::unwrap_used)]

use http::header::{CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderValue, Response, StatusCode, request};
use prefork::{Result, Server};
use std::io::Write;

fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap();
    Server::http(|req, res| {
        if req.header(http::header::UPGRADE).is_some() {
            let parts = request::Parts::try_from(req)?;
            res.status(StatusCode::IM_A_TEAPOT)?;
            res.header(CONTENT_TYPE, HeaderValue::from_static("text/teapot"))?;
            return Ok(res.body(format!("{} {}\n", parts.method, parts.uri))?);
        }
        match req.to_http() {
            Ok(request) => res.http(route(request))?,
            Err(e) => {
                res.status(StatusCode::BAD_REQUEST)?;
                res.body(e.to_string())?;
            }
        }
        Ok::<_, Box<dyn std::error::Error>>(())
    })
    .workers(1)
    .listen(address)
    .on_start(|started| {
        println!("listening on http://{}", started.addresses[0]);
        std::io::stdout().flush().unwrap();
    })
    .run()
    .map(drop)
}

fn route(request: http::Request<&[u8]>) -> Response<String> {
    let many: Vec<_> = request.headers().get_all("x-many").iter().map(|v| format!("{v:?}")).collect();
    let text = format!(
        "{} {} {:?} {:?} {:?} {}\n",
        request.method(),
        request.uri().path(),
        request.uri().query(),
        request.version(),
        str::from_utf8(request.body()).unwrap(),
        many.join(" ")
    );
    let response = Response::builder().status(201).header("x-a", "1").header("x-a", "2");
    match request.uri().path() {
        "/framing" => response.header(TRANSFER_ENCODING, "chunked"),
        _ => response,
    }
    .body(text)
    .unwrap()
}
