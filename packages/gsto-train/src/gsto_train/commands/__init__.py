"""The commands, one module each; none imports anything heavy before it is asked to do something."""
