"""Local pages: judging features, and looking at those of any dictionary. docs/judging_page.md says what guards them."""
