"""The learner behind HTTP: a page on which one drops pictures, and an endpoint for programs."""
