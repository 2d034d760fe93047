"""What the CRM keeps and who may do what with it: the table of kinds, and rules that decide. Pure."""
