//! Stand-ins for `ottla_protocol::{wire, api}` with the same names, until those land.

pub mod wire {
    use bytes::Bytes;

    #[derive(Debug)]
    pub struct DecodeError;
    pub struct Reader(pub Bytes);
    #[derive(Default)]
    pub struct Writer(Vec<u8>);
    impl Writer {
        #[must_use]
        pub fn new() -> Self {
            Self::default()
        }
        #[must_use]
        pub fn into_bytes(self) -> Bytes {
            self.0.into()
        }
    }
    pub trait Message: Sized {
        fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError>;
        fn encode(&self, w: &mut Writer, version: i16);
    }
}

pub mod api {
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub enum ApiKey {
        ApiVersions = 18,
    }
}
