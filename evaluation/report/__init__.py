"""Reports: one page with tables and pictures of one or more studies, and the pictures as files."""
