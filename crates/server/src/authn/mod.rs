//! Who asks: client certificates, tokens, anonymous; impersonation.
