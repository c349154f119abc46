//! Groups as stories: what clients send, what they hear; and one property: what lives is what a replay gives.
