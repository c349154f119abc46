//! The five codecs in Kafka's framing: streaming, with a hard limit on what comes out. Nothing that the input declares about its size is
//! believed before it is bounded.

use std::io::{self, BufReader, Read, Write as _};

use crate::batch::BatchError;

/// `compression.type`, as a batch's attributes number it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Compression {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Compression {
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    #[must_use]
    pub fn from_bits(bits: i16) -> Option<Self> {
        Self::ALL.get(usize::try_from(bits).ok()?).copied()
    }

    #[must_use]
    pub fn bits(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// As `compression.type` names it; `uncompressed` is Kafka's other word for `none`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "none" | "uncompressed" => Self::None,
            "gzip" => Self::Gzip,
            "snappy" => Self::Snappy,
            "lz4" => Self::Lz4,
            "zstd" => Self::Zstd,
            _ => return None,
        })
    }
}

/// xerial's snappy framing, which Java clients write: this magic, two version numbers, then blocks behind their big-endian length.
const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_HEADER_BYTES: usize = 16;
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;
/// A snappy copy element of 3 bytes yields at most 64: no valid block unpacks to more than this many times its size.
const SNAPPY_RATIO_MAX: usize = 22;
/// 128 MiB: what libzstd itself accepts unasked. A larger window is an attempt on our memory.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// Pieces in which a stream is unpacked while it is only walked.
pub(crate) const WINDOW_BYTES: usize = 16 * 1024;

/// Marks the error of a stream that unpacks to more than allowed.
#[derive(Debug)]
struct LimitReached;

impl std::fmt::Display for LimitReached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("more bytes than allowed")
    }
}

impl std::error::Error for LimitReached {}

/// Reads at most `left` bytes and then fails, where `Read::take` would end in silence.
struct Limited<R> {
    inner: R,
    left: usize,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.left = self.left.checked_sub(read).ok_or_else(|| io::Error::other(LimitReached))?;
        Ok(read)
    }
}

pub(crate) fn error_of(error: &io::Error, limit: usize) -> BatchError {
    match error.get_ref() {
        Some(inner) if inner.is::<LimitReached>() => BatchError::TooLargeUnpacked(limit),
        _ => BatchError::Undecodable(error.to_string()),
    }
}

/// A stream of the uncompressed bytes that fails once it has given `limit` of them.
pub(crate) fn reader<'a>(
    codec: Compression,
    compressed: &'a [u8],
    limit: usize,
) -> Result<Box<dyn Read + 'a>, BatchError> {
    let inner: Box<dyn Read + 'a> = match codec {
        Compression::None => Box::new(compressed),
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(compressed)),
        Compression::Snappy => Box::new(Snappy::new(compressed, limit)),
        Compression::Lz4 => Box::new(Lz4::new(compressed)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)
                .map_err(|error| BatchError::Undecodable(error.to_string()))?;
            decoder
                .window_log_max(ZSTD_WINDOW_LOG_MAX)
                .map_err(|error| BatchError::Undecodable(error.to_string()))?;
            Box::new(decoder)
        }
    };
    Ok(Box::new(Limited { inner, left: limit }))
}

/// Unpacks all of it.
///
/// # Errors
/// Undecodable, or more than `limit` bytes.
pub fn decompress(codec: Compression, compressed: &[u8], limit: usize) -> Result<Vec<u8>, BatchError> {
    let mut out = Vec::new();
    reader(codec, compressed, limit)?.read_to_end(&mut out).map_err(|error| error_of(&error, limit))?;
    Ok(out)
}

/// Unpacks through a small window, for callers that only look at what passes.
pub(crate) fn window<'a>(
    codec: Compression,
    compressed: &'a [u8],
    limit: usize,
) -> Result<BufReader<Box<dyn Read + 'a>>, BatchError> {
    Ok(BufReader::with_capacity(WINDOW_BYTES, reader(codec, compressed, limit)?))
}

/// Packs `bytes`. `level` is the codec's own (`compression.gzip.level` and its kin); `None` takes the codec's default.
///
/// # Panics
/// Never on content: writing into memory cannot fail.
#[must_use]
pub fn compress(codec: Compression, level: Option<i32>, bytes: &[u8]) -> Vec<u8> {
    const IN_MEMORY: &str = "writing into memory does not fail";
    match codec {
        Compression::None => bytes.to_vec(),
        Compression::Gzip => {
            let level = level
                .and_then(|level| u32::try_from(level).ok())
                .map_or_else(flate2::Compression::default, flate2::Compression::new);
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(bytes).expect(IN_MEMORY);
            encoder.finish().expect(IN_MEMORY)
        }
        Compression::Snappy => compress_xerial(bytes),
        Compression::Lz4 => {
            // What Kafka's own writer chooses: independent blocks of 64 KiB without content checksum.
            let info = lz4_flex::frame::FrameInfo::new()
                .block_mode(lz4_flex::frame::BlockMode::Independent)
                .block_size(lz4_flex::frame::BlockSize::Max64KB);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(bytes).expect(IN_MEMORY);
            encoder.finish().expect(IN_MEMORY)
        }
        Compression::Zstd => zstd::stream::encode_all(bytes, level.unwrap_or(3)).expect(IN_MEMORY),
    }
}

/// One whole lz4 frame. The decoder under it takes a frame without its end mark for a complete one, on which Java's reader fails.
struct Lz4<'a> {
    decoder: lz4_flex::frame::FrameDecoder<Watched<'a>>,
    ended: bool,
}

/// Knows whether more was asked of it than it had.
struct Watched<'a> {
    rest: &'a [u8],
    starved: bool,
}

impl Read for Watched<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.rest.read(into)?;
        self.starved |= read == 0 && !into.is_empty();
        Ok(read)
    }
}

impl<'a> Lz4<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let source = Watched { rest: bytes, starved: false };
        Self { decoder: lz4_flex::frame::FrameDecoder::new(source), ended: false }
    }
}

impl Read for Lz4<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.ended || into.is_empty() {
            return Ok(0);
        }
        let read = self.decoder.read(into)?;
        if read == 0 {
            self.ended = true;
            let source = self.decoder.get_ref();
            if source.starved {
                return Err(io::Error::other("the lz4 frame has no end mark"));
            }
            if !source.rest.is_empty() {
                return Err(io::Error::other("bytes follow the lz4 frame"));
            }
        }
        Ok(read)
    }
}

fn compress_xerial(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(XERIAL_HEADER_BYTES + bytes.len() / 2);
    out.extend_from_slice(&XERIAL_MAGIC);
    out.extend_from_slice(&1i32.to_be_bytes());
    out.extend_from_slice(&1i32.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in bytes.chunks(XERIAL_BLOCK_BYTES) {
        let packed = encoder.compress_vec(block).expect("a block of 32 KiB is within snappy's limit");
        let length = i32::try_from(packed.len()).expect("a packed block is small");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&packed);
    }
    out
}

/// Raw or xerial-framed snappy, block by block.
struct Snappy<'a> {
    rest: &'a [u8],
    framed: bool,
    limit: usize,
    block: Vec<u8>,
    at: usize,
}

impl<'a> Snappy<'a> {
    fn new(bytes: &'a [u8], limit: usize) -> Self {
        let framed = bytes.len() >= XERIAL_HEADER_BYTES && bytes.starts_with(&XERIAL_MAGIC);
        let rest = if framed { &bytes[XERIAL_HEADER_BYTES..] } else { bytes };
        Self { rest, framed, limit, block: Vec::new(), at: 0 }
    }

    fn next_block(&mut self) -> io::Result<bool> {
        if self.rest.is_empty() {
            return Ok(false);
        }
        let packed = if self.framed {
            let (length, rest) = self.rest.split_first_chunk::<4>().ok_or(io::ErrorKind::UnexpectedEof)?;
            let length = usize::try_from(i32::from_be_bytes(*length)).map_err(io::Error::other)?;
            let (packed, rest) = rest.split_at_checked(length).ok_or(io::ErrorKind::UnexpectedEof)?;
            self.rest = rest;
            packed
        } else {
            std::mem::take(&mut self.rest)
        };
        let size = snap::raw::decompress_len(packed).map_err(io::Error::other)?;
        if size > self.limit {
            return Err(io::Error::other(LimitReached));
        }
        if size > packed.len().saturating_mul(SNAPPY_RATIO_MAX) {
            return Err(io::Error::other("a snappy block declares more than it can hold"));
        }
        self.block.resize(size, 0);
        snap::raw::Decoder::new().decompress(packed, &mut self.block).map_err(io::Error::other)?;
        self.at = 0;
        Ok(true)
    }
}

impl Read for Snappy<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let count = into.len().min(self.block.len() - self.at);
        into[..count].copy_from_slice(&self.block[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Vec<u8> {
        (0..20_000u32)
            .flat_map(|i| format!("{{\"id\":{i},\"text\":\"token {}\"}}", i % 97).into_bytes())
            .collect()
    }

    #[test]
    fn every_codec_gives_back_what_it_was_given() {
        for codec in Compression::ALL {
            for input in [Vec::new(), b"x".to_vec(), text()] {
                let packed = compress(codec, None, &input);
                assert_eq!(decompress(codec, &packed, input.len()), Ok(input), "{codec:?}");
            }
        }
    }

    #[test]
    fn raw_snappy_is_read_too() {
        let packed = snap::raw::Encoder::new().compress_vec(&text()).expect("fits");
        assert_eq!(decompress(Compression::Snappy, &packed, 1 << 24), Ok(text()));
    }

    #[test]
    fn concatenated_gzip_members_are_read_as_one() {
        let mut packed = compress(Compression::Gzip, None, b"one ");
        packed.extend(compress(Compression::Gzip, None, b"two"));
        assert_eq!(decompress(Compression::Gzip, &packed, 100), Ok(b"one two".to_vec()));
    }

    #[test]
    fn a_bomb_ends_at_the_limit() {
        let zeros = vec![0; 64 << 20];
        for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
            let packed = compress(codec, None, &zeros);
            assert_eq!(
                decompress(codec, &packed, 1 << 20),
                Err(BatchError::TooLargeUnpacked(1 << 20)),
                "{codec:?}"
            );
        }
    }

    #[test]
    fn cve_2023_34455_a_snappy_length_is_not_believed() {
        // Four gigabytes declared by six bytes, raw and framed.
        let lie = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00];
        assert!(decompress(Compression::Snappy, &lie, 1 << 20).is_err());
        let mut framed = XERIAL_MAGIC.to_vec();
        framed.extend([0, 0, 0, 1, 0, 0, 0, 1]);
        for length in [-1i32, 6, i32::MAX] {
            let mut bytes = framed.clone();
            bytes.extend(length.to_be_bytes());
            bytes.extend(lie);
            assert!(decompress(Compression::Snappy, &bytes, 1 << 20).is_err(), "{length}");
        }
    }

    #[test]
    fn a_stream_that_is_cut_or_goes_on_is_no_stream() {
        for codec in [Compression::Gzip, Compression::Lz4, Compression::Zstd] {
            let packed = compress(codec, None, &text());
            for cut in [1, 2, 4, 5, 9, packed.len() / 2, packed.len() - 1] {
                let cut = &packed[..packed.len() - cut];
                assert!(decompress(codec, cut, 1 << 24).is_err(), "{codec:?} of {} bytes", cut.len());
            }
            let mut longer = packed;
            longer.extend([7; 9]);
            assert!(decompress(codec, &longer, 1 << 24).is_err(), "{codec:?}");
        }
    }
}
