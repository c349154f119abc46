//! Kafka's names as Rust writes them.

const KEYWORDS: &[&str] =
    &["type", "match", "ref", "self", "move", "in", "where", "use", "loop", "as", "fn", "mod"];

/// `TopicName` and `topicName` to `topic_name`; a keyword gets a trailing underscore.
pub(crate) fn snake_case(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut out = String::with_capacity(name.len() + 4);
    for (i, letter) in letters.iter().enumerate() {
        if letter.is_ascii_uppercase() && i > 0 {
            let after_lower = !letters[i - 1].is_ascii_uppercase();
            let before_lower = letters.get(i + 1).is_some_and(|next| next.is_ascii_lowercase());
            if after_lower || before_lower {
                out.push('_');
            }
        }
        out.push(letter.to_ascii_lowercase());
    }
    if KEYWORDS.contains(&out.as_str()) {
        out.push('_');
    }
    out
}
