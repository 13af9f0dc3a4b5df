//! The connections that callbacks have done something with: the loop serves them before it sleeps.

use mio::Token;
use std::cell::RefCell;
use std::rc::Rc;

/// Their tokens, in the order in which they were touched.
pub type Touched = Rc<RefCell<Vec<Token>>>;
