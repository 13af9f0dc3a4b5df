//! Requests and responses as the types of the crate `http`, with the feature of that name.

use super::request::Request;
use super::response::{Refused, Response, ToStatus};
use ::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, Version, request};

impl ToStatus for StatusCode {
    fn to_status(self) -> u16 {
        self.as_u16()
    }
}

impl<'a> Request<'a> {
    /// This request as one of the crate `http`, with copies of the head, and the body as it is. Needs the feature `http`.
    ///
    /// ```
    /// # fn route(request: http::Request<&[u8]>) -> http::Response<Vec<u8>> { http::Response::new(request.uri().path().into()) }
    /// # fn f(req: &prefork::Request<'_>, res: &mut prefork::Response) -> Result<(), Box<dyn std::error::Error>> {
    /// // The code of a program that knows nothing of prefork.
    /// let response: http::Response<Vec<u8>> = route(req.to_http()?);
    /// res.http(response)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The target is no [`Uri`] to that crate, which takes fewer characters than prefork, and none of more than 65,534 bytes; or there are
    /// more header fields than it has room for.
    pub fn to_http(&self) -> ::http::Result<::http::Request<&'a [u8]>> {
        let mut request = ::http::Request::new(self.body());
        *request.method_mut() = Method::from_bytes(self.method().as_bytes())?;
        *request.uri_mut() = self.target().parse::<Uri>()?;
        *request.version_mut() = if self.minor_version() == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
        let headers = request.headers_mut();
        headers.try_reserve(self.header_count())?;
        for (name, value) in self.headers() {
            headers.try_append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?)?;
        }
        Ok(request)
    }
}

/// As [`Request::to_http`].
impl<'a> TryFrom<&Request<'a>> for ::http::Request<&'a [u8]> {
    type Error = ::http::Error;

    fn try_from(request: &Request<'a>) -> ::http::Result<Self> {
        request.to_http()
    }
}

/// The head alone, as in [`Request::to_http`].
impl TryFrom<&Request<'_>> for request::Parts {
    type Error = ::http::Error;

    fn try_from(request: &Request<'_>) -> ::http::Result<Self> {
        Ok(request.to_http()?.into_parts().0)
    }
}

impl Response {
    /// Responds as a response of the crate `http` says: its status, its header fields, behind those that have been set, and its body, which
    /// is copied. Its version and extensions have no effect; prefork writes the body's length itself. Needs the feature `http`.
    ///
    /// # Errors
    /// Those of [`Response::status`] (101 is [`Response::upgrade`]'s), [`Response::header`] (a field that frames the message is refused)
    /// and [`Response::body`]; what came before is set then.
    pub fn http(&mut self, response: ::http::Response<impl AsRef<[u8]>>) -> Result<(), Refused> {
        let (parts, body) = response.into_parts();
        self.status(parts.status)?;
        for (name, value) in &parts.headers {
            self.header(name, value)?;
        }
        self.body(body)
    }
}
