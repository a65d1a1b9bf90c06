"""What the tests stand on: real servers, faults on command, and waiting for facts."""
