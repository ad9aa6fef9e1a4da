//! A service whose answers end after some time. The cluster secret is checked when a call begins, so a call that lasts would
//! outlive a secret that is replaced.
//! Knows nothing of what the service answers.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame};
use tokio::time::{Sleep, sleep};
use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::NamedService,
};

/// A service, and how long each of its answers may last.
#[derive(Clone, Debug)]
pub struct Bounded<S> {
    service: S,
    max: Duration,
}

impl<S> Bounded<S> {
    /// Bounds a service.
    #[must_use]
    pub const fn new(service: S, max: Duration) -> Self {
        Self { service, max }
    }
}

impl<S: NamedService> NamedService for Bounded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Bounded<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (answer, max) = (self.service.call(request), self.max);
        Box::pin(async move {
            let answer = answer.await?;
            Ok(answer.map(|body| Body::new(BoundedBody { body: Some(body), max, end: Box::pin(sleep(max)) })))
        })
    }
}

/// The body of an answer.
struct BoundedBody {
    /// `None`: it has ended.
    body: Option<Body>,
    max: Duration,
    end: Pin<Box<Sleep>>,
}

impl HttpBody for BoundedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        // First: to a caller that asks all the time, there is always a frame to send.
        if this.end.as_mut().poll(cx).is_pending() {
            return Pin::new(body).poll_frame(cx);
        }
        this.body = None;
        let status = Status::deadline_exceeded(format!("a call may last for {:?}; call again", this.max));
        let mut trailers = http::HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::future::{Ready, poll_fn, ready};

    use super::*;

    /// What an answer has.
    #[derive(Clone, Copy)]
    enum Kind {
        /// Two frames.
        Ends,
        /// Two frames, then nothing.
        Stays,
        /// A frame whenever it is asked.
        Goes,
    }

    struct Frames(usize, Kind);

    impl HttpBody for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.0 += 1;
            match self.1 {
                Kind::Ends if self.0 > 2 => Poll::Ready(None),
                Kind::Stays if self.0 > 2 => Poll::Pending,
                _ => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x"))))),
            }
        }
    }

    struct Answers(Kind);

    impl Service<http::Request<Body>> for Answers {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: http::Request<Body>) -> Self::Future {
            ready(Ok(http::Response::new(Body::new(Frames(0, self.0)))))
        }
    }

    /// How many frames a call is answered with, and the code that it ends with.
    async fn answered(kind: Kind, max: Duration) -> (usize, Option<String>) {
        let request = http::Request::new(Body::empty());
        let mut body = Bounded::new(Answers(kind), max).call(request).await.unwrap().into_body();
        let (mut frames, mut code) = (0, None);
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            match frame.unwrap().into_trailers() {
                Ok(trailers) => code = Some(trailers["grpc-status"].to_str().unwrap().to_owned()),
                Err(_) => frames += 1,
            }
            // Lets the time pass.
            tokio::task::yield_now().await;
        }
        (frames, code)
    }

    #[tokio::test]
    async fn an_answer_that_does_not_end_is_ended() {
        let (short, deadline_exceeded) = (Duration::from_millis(20), Some("4".to_owned()));
        assert_eq!(answered(Kind::Ends, Duration::from_secs(3600)).await, (2, None));
        assert_eq!(answered(Kind::Stays, short).await, (2, deadline_exceeded.clone()));
        let (frames, code) = answered(Kind::Goes, short).await;
        assert!(frames > 2 && code == deadline_exceeded, "{frames} {code:?}");
    }
}
