//! What a handler looks up in a request by name, decoded: parameters of the query, of a form, cookies, the parts of a form. Decoded at
//! the first look, and kept until the handler returns.

use super::multipart::{Malformed, Multipart, Part, parts};
use super::pairs::Pairs;
use super::parameters::essence;
use super::request::Request;
use std::cell::OnceCell;

/// What has been decoded of a request.
#[derive(Default)]
pub(super) struct Decoded<'a> {
    query: OnceCell<Pairs>,
    form: OnceCell<Pairs>,
    cookies: OnceCell<Pairs>,
    parts: OnceCell<Result<Vec<Part<'a>>, Malformed>>,
}

impl<'a> Request<'a> {
    fn decoded(&self) -> &Decoded<'a> {
        self.decoded.get_or_init(Box::default)
    }

    /// The parameters of the query, decoded: percent signs and `+`, which is a space. A percent sign without two hexadecimal digits
    /// behind it stands for itself.
    ///
    /// ```
    /// # fn f(req: &prefork::Request<'_>, res: &mut prefork::Response) -> Result<(), prefork::Refused> {
    /// let name = req.query_pairs().text("name").unwrap_or("nobody");
    /// res.body(format!("hello {name}\n"))
    /// # }
    /// ```
    pub fn query_pairs(&self) -> &Pairs {
        self.decoded().query.get_or_init(|| Pairs::urlencoded(self.query().unwrap_or_default().as_bytes()))
    }

    /// The fields of a form (`application/x-www-form-urlencoded`), decoded as [`Request::query_pairs`]; none if the body is of another
    /// type, or was taken in pieces.
    pub fn form(&self) -> &Pairs {
        self.decoded().form.get_or_init(|| {
            let value = self.header("content-type").unwrap_or_default();
            let is_form = essence(value).eq_ignore_ascii_case(b"application/x-www-form-urlencoded");
            if is_form { Pairs::urlencoded(self.body()) } else { Pairs::default() }
        })
    }

    /// The cookies (RFC 6265). Percent signs in values are decoded, quotes around them are dropped; names are as sent. What has no `=`
    /// is no cookie.
    pub fn cookies(&self) -> &Pairs {
        self.decoded().cookies.get_or_init(|| Pairs::cookies(self.header_all("cookie")))
    }

    /// The parts of a form with files (`multipart/form-data`, RFC 7578), in the order sent.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parts(&self) -> Result<&[Part<'a>], Malformed> {
        let read = || parts(self.header("content-type"), self.body());
        self.decoded().parts.get_or_init(read).as_deref().map_err(|malformed| *malformed)
    }

    /// A reader of the parts of a form whose body comes in pieces ([`crate::Handler::on_body`]).
    ///
    /// # Errors
    /// [`Malformed::Type`].
    pub fn multipart(&self) -> Result<Multipart, Malformed> {
        Multipart::new(self.header("content-type").ok_or(Malformed::Type)?)
    }
}
