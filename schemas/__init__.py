"""What travels: identifiers, events, subjects, codes and configuration, as pure data."""
