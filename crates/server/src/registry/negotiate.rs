//! Which encoding and shape an answer takes, and which encoding a body has.
//!
//! Mirrors `NegotiateMediaTypeOptions` and `NegotiateInputSerializer`
//! (apiserver/pkg/endpoints/handlers/negotiation/negotiate.go).

use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, USER_AGENT};
use skiff_machinery::ApiError;

/// An encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Format {
    Json,
    Yaml,
    Protobuf,
}

impl Format {
    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// What an answer shows of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// All of it.
    Whole,
    /// `as=PartialObjectMetadata` and `as=PartialObjectMetadataList`.
    Metadata,
    /// `as=Table`.
    Table,
}

/// What a client takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Encoding.
    pub format: Format,
    /// Shape.
    pub shape: Shape,
    /// Indented for people.
    pub pretty: bool,
}

impl Accepted {
    /// Plain JSON.
    pub const JSON: Self = Self { format: Format::Json, shape: Shape::Whole, pretty: false };
}

/// What can be answered.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// Whether whole objects exist in protobuf: not for custom resources.
    pub protobuf: bool,
    /// Whether metadata and tables can be asked for.
    pub shapes: bool,
    /// A watch: no YAML.
    pub stream: bool,
}

struct Clause<'a> {
    media_type: &'a str,
    quality: f32,
    target: Option<(&'a str, &'a str, &'a str)>,
}

fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<Clause<'_>> = accept
        .split(',')
        .map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default();
            let (mut quality, mut kind, mut version, mut group) = (1.0, None, "", "");
            for (key, value) in parts.filter_map(|part| part.split_once('=')) {
                match key.trim() {
                    "q" => quality = value.trim().parse().unwrap_or(1.0),
                    "as" => kind = Some(value.trim()),
                    "v" => version = value.trim(),
                    "g" => group = value.trim(),
                    _ => {}
                }
            }
            Clause { media_type, quality, target: kind.map(|kind| (kind, version, group)) }
        })
        .filter(|clause| !clause.media_type.is_empty())
        .collect();
    // A stable sort: among equals the client's order counts.
    clauses.sort_by(|left, right| right.quality.total_cmp(&left.quality));
    clauses
}

/// Chooses encoding and shape of an answer.
pub fn accepted(headers: &HeaderMap, offer: Offer, pretty: Option<bool>, list: bool) -> Result<Accepted, ApiError> {
    let accept = headers.get(ACCEPT).map(|value| value.to_str().unwrap_or_default()).unwrap_or_default();
    let pretty = pretty.unwrap_or_else(|| is_for_people(headers));
    if accept.trim().is_empty() {
        return Ok(Accepted { pretty, ..Accepted::JSON });
    }
    for clause in clauses(accept) {
        let shape = match clause.target {
            None => Shape::Whole,
            Some(("Table", "v1", "meta.k8s.io")) if offer.shapes => Shape::Table,
            Some(("PartialObjectMetadata", "v1", "meta.k8s.io")) if offer.shapes && (!list || offer.stream) => {
                Shape::Metadata
            }
            Some(("PartialObjectMetadataList", "v1", "meta.k8s.io")) if offer.shapes && list && !offer.stream => {
                Shape::Metadata
            }
            Some(_) => continue,
        };
        let format = match clause.media_type {
            "application/json" | "*/*" | "application/*" => Format::Json,
            "application/yaml" if !offer.stream => Format::Yaml,
            "application/vnd.kubernetes.protobuf" => Format::Protobuf,
            _ => continue,
        };
        // Tables exist as JSON and YAML only, custom resources have no protobuf but for their metadata.
        if format == Format::Protobuf && (shape == Shape::Table || (shape == Shape::Whole && !offer.protobuf)) {
            continue;
        }
        return Ok(Accepted { format, shape, pretty });
    }
    let mut types = vec![Format::Json.media_type()];
    if !offer.stream {
        types.push(Format::Yaml.media_type());
    }
    if offer.protobuf {
        types.push(Format::Protobuf.media_type());
    }
    Err(ApiError::not_acceptable(format!("only the following media types are accepted: {}", types.join(", "))))
}

/// `isPrettyPrint`: what people look at with their own eyes is indented.
fn is_for_people(headers: &HeaderMap) -> bool {
    let agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|prefix| agent.starts_with(prefix))
}

/// The media type of a body, without parameters.
pub fn content_type(headers: &HeaderMap) -> &str {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim()
}

/// The encoding of a body; JSON when nothing is said.
pub fn body_format(headers: &HeaderMap, protobuf: bool) -> Result<Format, ApiError> {
    match content_type(headers) {
        "" | "application/json" => Ok(Format::Json),
        "application/yaml" => Ok(Format::Yaml),
        "application/vnd.kubernetes.protobuf" if protobuf => Ok(Format::Protobuf),
        _ => {
            let mut types = vec![Format::Json.media_type(), Format::Yaml.media_type()];
            if protobuf {
                types.push(Format::Protobuf.media_type());
            }
            Err(unknown_format(&types))
        }
    }
}

/// 415 in upstream's words.
pub fn unknown_format(accepted: &[&str]) -> ApiError {
    ApiError::unsupported_media_type(format!(
        "the body of the request was in an unknown format - accepted media types include: {}",
        accepted.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(accept: &str, offer: Offer, list: bool) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        match accepted(&headers, offer, Some(false), list) {
            Ok(found) => format!("{:?} {:?}", found.format, found.shape),
            Err(error) => format!("{} {error}", error.code()),
        }
    }

    #[test]
    fn chooses_as_upstream_does() {
        let all = Offer { protobuf: true, shapes: true, stream: false };
        let custom = Offer { protobuf: false, ..all };
        let watch = Offer { stream: true, ..all };
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(choose(kubectl, all, true), "Json Table");
        assert_eq!(choose("application/vnd.kubernetes.protobuf,application/json", all, true), "Protobuf Whole");
        assert_eq!(choose("application/vnd.kubernetes.protobuf,application/json", custom, true), "Json Whole");
        assert_eq!(
            choose("application/vnd.kubernetes.protobuf", custom, true),
            "406 only the following media types are accepted: application/json, application/yaml"
        );
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        assert_eq!(choose(metadata, custom, true), "Protobuf Metadata");
        assert_eq!(choose("application/json;q=0.5, application/yaml", all, false), "Yaml Whole");
        assert_eq!(
            choose("application/yaml", watch, true),
            "406 only the following media types are accepted: application/json, application/vnd.kubernetes.protobuf"
        );
        assert_eq!(choose("application/vnd.kubernetes.protobuf;stream=watch", watch, true), "Protobuf Whole");
        assert_eq!(choose("*/*", all, true), "Json Whole");
        assert_eq!(
            choose("text/html", all, true),
            "406 only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"
        );
    }
}
