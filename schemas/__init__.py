"""Wire types and names: identifiers, events, subjects, streams, headers, codes and configuration."""
