//! An answer that ends when the token it was opened with does: a revoked token must not go on reading.
//!
//! Elsewhere: who cancels is `keyring`.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Bytes;
use http::{HeaderMap, Response};
use http_body::{Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;

use super::errors::Refusal;

/// Ends `response` when `ended` is cancelled.
pub(crate) fn cut(response: Response<Body>, ended: CancellationToken) -> Response<Body> {
    let ended = Box::pin(ended.cancelled_owned());
    response.map(|inner| Body::new(Cut { inner, ended, over: false }))
}

struct Cut {
    inner: Body,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    over: bool,
}

impl http_body::Body for Cut {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if self.ended.as_mut().poll(context).is_ready() {
            self.over = true;
            self.inner = Body::empty();
            let mut trailers = HeaderMap::new();
            // A status whose details do not fit a header still ends the stream.
            let _ = tonic::Status::from(Refusal::unauthenticated()).add_header(&mut trailers);
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
